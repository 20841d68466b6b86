//! Sending a message: under which ids, and what becomes of one that is another message's.

use super::*;
use crate::{flow::commands, protocol::error_code::ErrorCode, session::job::Job};

fn answer(code: Code, msg_id: i64) -> Result<Response, CallError> {
    Ok(Response::Send(proto::SendResponse {
        result: result(code),
        msg_id,
        duplicate: false,
    }))
}

/// The answer to a line of a user who is logged in.
fn reply_to(world: &World, line: &str) -> Reply {
    let [reply] = <[Reply; 1]>::try_from(replies_to(world, line)).expect("one reply");
    reply
}

/// The answers to lines of a user who is logged in, which make one job.
fn replies_to(world: &World, lines: &str) -> Vec<Reply> {
    let (key, _) = world.log_in(1, &[]);
    let mut job: Job = world
        .core
        .shard()
        .feed(key, lines.as_bytes())
        .expect("a job");
    let replies = Rc::new(RefCell::new(Vec::new()));
    let core = Rc::clone(&world.core);
    let into = Rc::clone(&replies);
    let mut flow: Flow = Box::pin(async move {
        into.replace(commands::run(&core, &mut job).await.to_vec());
    });
    assert!(go_on(&mut flow));
    replies.take()
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

/// What each item of a batch is answered, by its text.
fn batch(
    request: &proto::SendBatchRequest,
    code: impl Fn(&str) -> Code,
) -> Result<Response, CallError> {
    let results = request.items.iter().map(|item| {
        let (text, msg_id) = said(item);
        let code = code(&text);
        proto::SendBatchResult {
            result: result(code),
            msg_id: if code == Code::Ok { msg_id } else { 0 },
            duplicate: false,
        }
    });
    Ok(Response::SendBatch(proto::SendBatchResponse {
        result: result(Code::Ok),
        results: results.collect(),
    }))
}

/// The text and the id of an item.
fn said(item: &proto::SendBatchItem) -> (String, i64) {
    use proto::send_batch_item::Message;
    match item.message.as_ref().expect("a message") {
        Message::Direct(send) => {
            let msg = send.msg.as_ref().expect("a message");
            (msg.text.clone(), msg.msg_id)
        }
        Message::Group(send) => {
            let msg = send.msg.as_ref().expect("a message");
            (msg.text.clone(), msg.msg_id)
        }
    }
}

/// The batches that were sent, as the services got them.
fn batches(world: &World) -> Vec<Vec<(String, i64)>> {
    let calls = world.calls.borrow();
    let batches = calls.iter().filter_map(|call| match call {
        Request::SendBatch(batch) => Some(batch.items.iter().map(said).collect()),
        _ => None,
    });
    batches.collect()
}

fn code_of(reply: &Reply) -> Option<ErrorCode> {
    match reply {
        Reply::Error { code, .. } => Some(*code),
        _ => None,
    }
}

#[test]
fn sends_that_follow_each_other_are_one_call_with_an_answer_for_each() {
    let world = World::new(0, |request| match request {
        Request::SendBatch(items) => batch(items, |text| match text {
            "nobody" => Code::NotFound,
            "strange" => Code::Forbidden,
            _ => Code::Ok,
        }),
        _ => panic!("not sent"),
    });
    let replies = replies_to(
        &world,
        "@a chat:2:one\nchat:9:nobody\ngroup_chat:3:strange\ngroup_chat:4:two\n",
    );
    let [sent] = batches(&world).try_into().expect("one call");
    let codes: Vec<_> = replies.iter().map(code_of).collect();
    let refused = [Some(ErrorCode::NotFound), Some(ErrorCode::Forbidden)];
    assert_eq!(codes, [None, refused[0], refused[1], None]);
    assert!(matches!(
        (&replies[0], &replies[3]),
        (
            Reply::Stored { group: false, message_id: first, .. },
            Reply::Stored { group: true, message_id: last, .. }
        ) if *first == sent[0].1 && *last == sent[3].1
    ));
}

#[test]
fn a_batch_with_an_id_that_is_taken_is_sent_again_from_there_on_under_new_ids() {
    let mut calls = 0;
    let world = World::new(0, move |request| match request {
        Request::SendBatch(items) => {
            calls += 1;
            let is_first = calls == 1;
            batch(items, |text| {
                if is_first && text != "one" {
                    Code::Conflict
                } else {
                    Code::Ok
                }
            })
        }
        _ => panic!("not sent"),
    });
    let replies = replies_to(&world, "chat:2:one\nchat:2:two\nchat:2:three\n");
    assert!(replies.iter().all(|reply| code_of(reply).is_none()));
    let [first, second] = batches(&world).try_into().expect("two calls");
    let texts: Vec<_> = second.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["two", "three"]);
    assert!(
        second
            .iter()
            .all(|(_, id)| first.iter().all(|(_, old)| id != old))
    );
    let conflicts = &world.core.shard();
    assert_eq!(conflicts.metrics().message_id_conflicts_total.get(), 1);
}

#[test]
fn a_call_that_fails_fails_for_each_message_of_it() {
    for (error, code) in [
        (CallError::Timeout, ErrorCode::Timeout),
        (CallError::Lost, ErrorCode::BackendUnavailable),
        (CallError::Overloaded, ErrorCode::Overloaded),
    ] {
        let world = World::new(0, move |_| Err(error));
        let replies = replies_to(&world, "chat:2:one\nchat:2:two\n");
        assert_eq!(
            replies.iter().map(code_of).collect::<Vec<_>>(),
            [Some(code); 2]
        );
        assert_eq!(world.calls.borrow().len(), 1);
    }
}

#[test]
fn an_answer_with_too_few_results_is_a_broken_one() {
    let world = World::new(0, |request| match request {
        Request::SendBatch(items) => {
            let mut items = items.clone();
            items.items.pop();
            batch(&items, |_| Code::Ok)
        }
        _ => panic!("not sent"),
    });
    let replies = replies_to(&world, "chat:2:one\nchat:2:two\n");
    let codes: Vec<_> = replies.iter().map(code_of).collect();
    assert_eq!(codes, [Some(ErrorCode::Internal); 2]);
}

#[test]
fn where_no_service_takes_batches_messages_go_one_after_the_other_until_one_is_in_doubt() {
    let world = World::new(0, |request| match request {
        Request::SendBatch(_) => Err(CallError::Unsupported),
        Request::Send(send) => match send.msg.as_ref().expect("a message").text.as_str() {
            "nobody" => answer(Code::NotFound, 0),
            "slow" => Err(CallError::Timeout),
            _ => answer(Code::Ok, id_of(send)),
        },
        _ => panic!("not sent"),
    });
    let replies = replies_to(
        &world,
        "chat:2:one\nchat:2:nobody\nchat:2:slow\nchat:2:four\nchat:2:five\n",
    );
    let codes: Vec<_> = replies.iter().map(code_of).collect();
    let timeout = Some(ErrorCode::Timeout);
    assert_eq!(
        codes,
        [None, Some(ErrorCode::NotFound), timeout, timeout, timeout]
    );
    assert_eq!(sent(&world).len(), 3, "those behind it were not tried");
}
