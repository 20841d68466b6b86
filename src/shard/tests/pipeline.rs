//! Sends that follow each other on one connection: which travel together, and which fail together.

use super::*;
use crate::{base::close::CloseReason, protocol::error_code::ErrorCode};

/// The texts of a job's messages.
fn texts(job: &Job) -> Vec<String> {
    let text = |command: &Asked| match &command.call {
        Call::Chat { text, .. } | Call::GroupChat { text, .. } => text.clone(),
        other => format!("{other:?}"),
    };
    job.commands.iter().map(text).collect()
}

fn logged_in() -> (Shard, ConnectionKey) {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[]);
    (shard, key)
}

fn errors(job: &Job, code: ErrorCode) -> Vec<Reply> {
    job.commands
        .iter()
        .map(|_| Reply::error(code, "no"))
        .collect()
}

#[test]
fn sends_that_follow_each_other_are_one_job_and_are_answered_in_order() {
    let (mut shard, key) = logged_in();
    let lines = b"@a chat:5:x\n\ngroup_chat:3:yy\nSEND 5 zzz\nping\nchat:5:later\n";
    let job = shard.feed(key, lines).expect("a job");
    assert_eq!(texts(&job), ["x", "yy", "zzz"]);
    assert_eq!(read(&mut shard, key), "");
    let replies = [4, 5, 6].map(|message_id| Reply::Stored {
        group: message_id == 5,
        message_id,
        duplicate: false,
    });
    let next = shard.complete(&job, &replies).expect("a job");
    assert_eq!(texts(&next), ["later"]);
    let said = read(&mut shard, key);
    let firsts: Vec<_> = said.lines().map(|line| line.split(' ').next()).collect();
    assert_eq!(firsts.len(), 4, "{said}");
    assert!(
        said.starts_with("@a +OK msg_id=4\n+OK msg_id=5\n"),
        "{said}"
    );
    assert!(said.ends_with("+OK pong\n"), "{said}");
}

#[test]
fn what_comes_while_sends_are_out_is_read_on_and_goes_in_the_next_job() {
    let (mut shard, key) = logged_in();
    let first = shard.feed(key, b"chat:5:one\n").expect("a job");
    assert!(shard.can_read(key));
    assert!(shard.feed(key, b"chat:5:two\nchat:5:th").is_none());
    assert!(shard.can_read(key));
    assert!(shard.feed(key, b"ree\nchat:5:fo").is_none());
    let second = shard.complete(&first, &answer(&first)).expect("a job");
    assert_eq!(texts(&second), ["two", "three"]);
    assert!(shard.complete(&second, &answer(&second)).is_none());
    let third = shard.feed(key, b"ur\n").expect("a job");
    assert_eq!(texts(&third), ["four"]);
}

#[test]
fn as_many_as_the_limit_travel_together() {
    let (mut shard, key) = logged_in();
    let limit = shard.options().pipeline_limit;
    let lines = "chat:5:x\n".repeat(2 * limit + 1);
    let mut job = shard.feed(key, lines.as_bytes());
    let mut sizes = Vec::new();
    while let Some(now) = job {
        sizes.push(now.commands.len());
        job = shard.complete(&now, &answer(&now));
    }
    assert_eq!(sizes, [limit, limit, 1]);
}

#[test]
fn reading_on_has_an_end_and_goes_on_when_there_is_room() {
    let (mut shard, key) = logged_in();
    let job = shard.feed(key, b"chat:5:x\n").expect("a job");
    let mut fed = 0;
    while shard.can_read(key) {
        let room = shard.read_room(key);
        let chunk = "chat:5:y\n".repeat(5000);
        let count = room.min(chunk.len());
        assert!(shard.feed(key, &chunk.as_bytes()[..count]).is_none());
        fed += count;
    }
    assert_eq!(fed, 64 * 1024);
    let mut keys = Vec::new();
    shard.take_resumable(&mut keys);
    assert!(shard.complete(&job, &answer(&job)).is_some());
    keys.clear();
    shard.take_resumable(&mut keys);
    assert_eq!(keys, [key], "there may be more in the socket");
    assert!(shard.can_read(key));
}

#[test]
fn before_login_nothing_is_read_on() {
    let mut shard = shard();
    let key = connect(&mut shard);
    assert!(shard.feed(key, b"login:a:b\n").is_some());
    assert!(!shard.can_read(key));
}

#[test]
fn what_was_read_behind_a_send_of_unknown_fate_fails_with_it_and_what_comes_later_does_not() {
    for code in [ErrorCode::Timeout, ErrorCode::BackendUnavailable] {
        let (mut shard, key) = logged_in();
        let job = shard.feed(key, b"chat:5:a\nchat:5:b\n").expect("a job");
        let behind = b"@x chat:5:c\nping\ngroup_chat:3:d\nchat:x:bad\nchat:5:half";
        assert!(shard.feed(key, behind).is_none());
        assert!(shard.complete(&job, &errors(&job, code)).is_none());
        let said = read(&mut shard, key);
        let name = code.word();
        let expected = format!(
            "-ERR {name} no\n-ERR {name} no\n@x -ERR {name} no\n+OK pong\n-ERR {name} no\n"
        );
        let rest = said
            .strip_prefix(&expected)
            .unwrap_or_else(|| panic!("{said}"));
        assert!(rest.starts_with("-ERR BAD_ARGUMENT"), "{rest}");
        // Its beginning was read before, but it is a line only now.
        let next = shard.feed(key, b"way\n").expect("a job");
        assert_eq!(texts(&next), ["halfway"]);
    }
}

#[test]
fn other_commands_in_between_do_not_let_sends_overtake_one_of_unknown_fate() {
    let (mut shard, key) = logged_in();
    let job = shard.feed(key, b"chat:5:a\n").expect("a job");
    assert!(shard.feed(key, b"friends\nchat:5:b\n").is_none());
    let friends = shard
        .complete(&job, &errors(&job, ErrorCode::Timeout))
        .expect("a job");
    assert!(shard.feed(key, b"chat:5:c\n").is_none());
    let last = shard
        .complete(&friends, &[Reply::Friends(Vec::new())])
        .expect("a job");
    assert_eq!(texts(&last), ["c"], "it was read after the failure");
    let said = read(&mut shard, key);
    assert_eq!(said.matches("-ERR TIMEOUT").count(), 2, "{said}");
}

#[test]
fn an_answer_that_is_certain_fails_nobody_else() {
    let (mut shard, key) = logged_in();
    let job = shard
        .feed(key, b"chat:5:a\nping\nchat:5:b\n")
        .expect("a job");
    let next = shard
        .complete(&job, &errors(&job, ErrorCode::Overloaded))
        .expect("a job");
    assert_eq!(texts(&next), ["b"]);
}

#[test]
fn each_line_of_a_job_takes_a_token() {
    let mut shard = shard();
    let (sender, pinger) = (connect_limited(&mut shard), connect_limited(&mut shard));
    log_in(&mut shard, sender, 7, 0, &[]);
    log_in(&mut shard, pinger, 8, 0, &[]);
    let count = 2 * shard.options().command_rate.burst as usize;
    assert!(
        shard
            .feed(pinger, "ping\n".repeat(count).as_bytes())
            .is_none()
    );
    let pongs = read(&mut shard, pinger).lines().count();
    assert!(pongs < count, "the rate holds");
    let mut job = shard.feed(sender, "chat:5:x\n".repeat(count).as_bytes());
    let mut sent = 0;
    while let Some(now) = job {
        sent += now.commands.len();
        job = shard.complete(&now, &answer(&now));
    }
    assert_eq!(sent, pongs);
}

#[test]
fn a_session_that_ends_while_its_sends_are_out_is_answered_nothing_more() {
    let (mut shard, key) = logged_in();
    let job = shard.feed(key, b"chat:5:a\nchat:5:b\n").expect("a job");
    assert!(shard.feed(key, b"chat:5:c\n").is_none());
    shard.end(key, CloseReason::Replaced);
    let said = read(&mut shard, key);
    assert!(shard.complete(&job, &answer(&job)).is_none());
    assert!(said.ends_with("KICK reason=replaced\n"), "{said}");
    assert_eq!(read(&mut shard, key), "");
}
