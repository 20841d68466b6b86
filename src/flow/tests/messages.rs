//! Sending a message: under which ids, and what becomes of one that is another message's.

use super::*;
use crate::{flow::commands, session::job::Job};

fn answer(code: Code, msg_id: i64) -> Result<Response, CallError> {
    Ok(Response::Send(proto::SendResponse {
        result: result(code),
        msg_id,
        duplicate: false,
    }))
}

/// The answer to a line of a user who is logged in.
fn reply_to(world: &World, line: &str) -> Reply {
    let (key, _) = world.log_in(1, &[]);
    let job: Job = world
        .core
        .shard()
        .feed(key, line.as_bytes())
        .expect("a job");
    let reply = Rc::new(RefCell::new(None));
    let core = Rc::clone(&world.core);
    let into = Rc::clone(&reply);
    let mut flow: Flow = Box::pin(async move {
        into.replace(Some(commands::run(&core, &job).await));
    });
    assert!(go_on(&mut flow));
    reply.take().expect("a reply")
}

/// The messages that were sent, as the services got them.
fn sent(world: &World) -> Vec<proto::SendRequest> {
    let calls = world.calls.borrow();
    let sent = calls.iter().filter_map(|call| match call {
        Request::Send(send) => Some(send.clone()),
        _ => None,
    });
    sent.collect()
}

fn id_of(send: &proto::SendRequest) -> i64 {
    send.msg.as_ref().expect("a message").msg_id
}

#[test]
fn a_message_whose_id_is_taken_is_sent_again_under_others() {
    let mut refusals = 3;
    let world = World::new(0, move |request| match request {
        Request::Send(_) if refusals > 0 => {
            refusals -= 1;
            answer(Code::Conflict, 0)
        }
        Request::Send(send) => answer(Code::Ok, id_of(send)),
        _ => panic!("not sent"),
    });
    let reply = reply_to(&world, "@t chat:2:hello\n");
    let sent = sent(&world);
    let ids: Vec<i64> = sent.iter().map(id_of).collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert!(sent.iter().all(|send| send.client_msg_id == "t"));
    assert!(
        matches!(reply, Reply::Stored { message_id, duplicate: false, .. } if message_id == ids[3])
    );
    let shard = world.core.shard();
    let metrics = shard.metrics();
    assert_eq!(metrics.message_id_conflicts_total.get(), 3);
    assert_eq!(metrics.messages_received_total.get(), 1);
}

#[test]
fn a_message_for_which_no_id_is_free_is_refused_after_some_attempts() {
    let world = World::new(0, |_| answer(Code::Conflict, 0));
    let reply = reply_to(&world, "chat:2:hello\n");
    assert_eq!(sent(&world).len(), 8);
    assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
    let shard = world.core.shard();
    assert_eq!(shard.metrics().messages_received_total.get(), 0);
}
