//! A shard as a value: bytes, pushes and the time go in; bytes, jobs and effects come out.

mod acknowledgements;
mod catching_up;
mod deadlines;
mod input;
mod invariants;
mod limits;
mod membership;
mod pipeline;
mod protobuf;
mod pushes;
mod resync;
mod websocket;
mod window;

use std::sync::Arc;

use smallvec::smallvec;

use super::{Effect, Now, Shard, fixtures::options};
use crate::{
    base::id::{ConnectionKey, GroupId, MessageIds, SessionId, Stream, UserId},
    metrics,
    proto::{PushKind, PushMessage},
    protocol::{
        command::{Dialect, Verb},
        reply::Reply,
        request::ReplyTo,
    },
    session::{
        LoginSession, Peer,
        job::{Asked, Call, Identity, Job},
    },
    shard::push::Page,
};

fn shard() -> Shard {
    Shard::new(
        options(),
        MessageIds::new(1),
        Arc::new(metrics::Core::new()),
    )
}

fn at(shard: &mut Shard, now_ms: u64) {
    shard.set_now(Now {
        monotonic_us: now_ms * 1000,
        unix_ms: 1_760_000_000_000 + now_ms,
    });
    shard.tick();
}

fn connect(shard: &mut Shard) -> ConnectionKey {
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    shard.accept(
        Peer {
            ip,
            port: 1,
            exempt: true,
            is_forwarded: false,
        },
        crate::protocol::codec::Codec::Line,
    )
}

fn connect_limited(shard: &mut Shard) -> ConnectionKey {
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    shard.accept(
        Peer {
            ip,
            port: 1,
            exempt: false,
            is_forwarded: false,
        },
        crate::protocol::codec::Codec::Line,
    )
}

/// Everything the connection has to send, as if its socket took it and its peer acknowledged it.
fn read(shard: &mut Shard, key: ConnectionKey) -> String {
    let text = take(shard, key);
    shard.acknowledged(key, 0);
    text
}

/// Everything the connection has to send, as if its socket took it.
fn take(shard: &mut Shard, key: ConnectionKey) -> String {
    let text = String::from_utf8(shard.unsent(key).to_vec()).expect("lines are text");
    shard.sent(key, text.len(), false);
    text
}

fn session_id(shard: &Shard, key: ConnectionKey) -> SessionId {
    let login = shard.connection(key).and_then(|c| c.session.login());
    login.expect("a login").session_id
}

/// Logs `user` in, with direct messages after `last_seq` and the groups' after their numbers to be
/// pushed.
fn log_in(
    shard: &mut Shard,
    key: ConnectionKey,
    user: UserId,
    last_seq: u64,
    groups: &[(GroupId, u64)],
) {
    let job = begin_log_in(shard, key, user, last_seq, groups);
    finish_log_in(shard, &job, user);
    read(shard, key);
}

fn begin_log_in(
    shard: &mut Shard,
    key: ConnectionKey,
    user: UserId,
    last_seq: u64,
    groups: &[(GroupId, u64)],
) -> Job {
    let job = shard.feed(key, b"login:somebody:secret\n").expect("a job");
    let session_id = shard.next_session_id();
    assert!(shard.attach(key, user, "somebody".into(), session_id));
    shard.set_baseline(key, Some(last_seq));
    for (group, last_seq) in groups {
        shard.add_member(key, *group, Some(*last_seq));
    }
    job
}

/// A `pull` of `user` that is under way.
fn pull(key: ConnectionKey, user: UserId) -> Job {
    Job {
        key,
        identity: Some(Identity {
            user,
            session_id: 0,
            login_session: LoginSession {
                id: 1,
                epoch: None,
                issued_ms: 0,
            },
        }),
        token: None,
        commands: smallvec![Asked {
            tag: None,
            to: ReplyTo::Line(Dialect::Colon),
            verb: Verb::Pull,
            call: Call::Pull { limit: 100 },
            started_us: 0,
        }],
    }
}

fn finish_log_in(shard: &mut Shard, job: &Job, user: UserId) {
    let reply = Reply::LoggedIn {
        uid: user,
        session: 9,
        token: None,
        replaced: false,
    };
    assert!(shard.complete(job, &[reply]).is_none());
}

fn direct(to: UserId, seq: u64) -> Arc<PushMessage> {
    Arc::new(PushMessage {
        msg_id: 1000 + seq as i64,
        from: 70,
        to,
        ts_ms: 5,
        text: format!("d{seq}"),
        seq,
        ..Default::default()
    })
}

fn grouped(group: GroupId, seq: u64, from: UserId, session_id: SessionId) -> Arc<PushMessage> {
    Arc::new(PushMessage {
        msg_id: 2000 + seq as i64,
        from,
        group_id: group,
        ts_ms: 5,
        text: format!("g{seq}"),
        session_id,
        seq,
        ..Default::default()
    })
}

fn news(kind: PushKind, to: UserId, group: GroupId, seq: u64) -> Arc<PushMessage> {
    Arc::new(PushMessage {
        to,
        group_id: group,
        kind: kind.into(),
        seq,
        ..Default::default()
    })
}

/// All that the store has of what was asked for.
fn page(messages: impl IntoIterator<Item = Arc<PushMessage>>) -> Page {
    Page {
        messages: messages
            .into_iter()
            .map(|message| (*message).clone())
            .collect(),
        ..Page::default()
    }
}

/// The texts of the messages in `lines`.
fn texts(lines: &str) -> Vec<&str> {
    let messages = lines.lines().filter(|line| line.contains("MSG "));
    messages
        .filter_map(|line| line.split_once(" text=").map(|(_, text)| text))
        .collect()
}

fn effects(shard: &mut Shard) -> Vec<Effect> {
    let mut effects = Vec::new();
    shard.take_effects(&mut effects);
    effects
}

/// The answers of services that do everything.
fn answer(job: &Job) -> Vec<Reply> {
    job.commands.iter().map(answer_one).collect()
}

fn answer_one(command: &Asked) -> Reply {
    match &command.call {
        Call::Chat { text, .. } => Reply::Stored {
            group: false,
            message_id: text.len() as i64,
            duplicate: false,
        },
        _ => Reply::FriendAdded,
    }
}
