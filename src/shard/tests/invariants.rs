//! An invariant that does not hold is noticed, and named by its number.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::{
    base::close::CloseReason,
    protocol::codec::Carrier,
    session::{Login, Membership},
    shard::Connection,
};

/// The number of the invariant that does not hold in a shard, with a user in a group, that
/// suffered `harm`.
fn violated_by(harm: impl FnOnce(&mut Shard, ConnectionKey)) -> String {
    let mut shard = shard();
    let key = connect(&mut shard);
    log_in(&mut shard, key, 7, 0, &[(3, 5)]);
    shard.assert_invariants();
    harm(&mut shard, key);
    let panic = catch_unwind(AssertUnwindSafe(|| shard.assert_invariants()));
    let panic = panic.expect_err("something does not hold");
    let literal = panic.downcast_ref::<&str>().map(|words| words.to_string());
    let words = panic.downcast_ref::<String>().cloned().or(literal);
    let words = words.expect("a panic with words");
    let is_number = |word: &&str| {
        word.strip_prefix('I')
            .is_some_and(|n| n.parse::<u8>().is_ok())
    };
    let mut parts = words.split(|c: char| !c.is_ascii_alphanumeric());
    parts.find(is_number).expect("a number").to_owned()
}

fn connection(shard: &mut Shard, key: ConnectionKey) -> &mut Connection {
    shard.connection_mut(key).expect("a connection")
}

fn login(shard: &mut Shard, key: ConnectionKey) -> &mut Login {
    let login = connection(shard, key).session.login_mut();
    login.expect("a login")
}

#[test]
fn users_and_sessions_know_each_other() {
    let twice = violated_by(|shard, key| {
        let user = shard.users.get_mut(&7).expect("a user");
        user.slots.push(key.slot);
    });
    let unknown = violated_by(|shard, _| drop(shard.users.remove(&7)));
    let gone = violated_by(|shard, key| {
        connection(shard, key).session.log_out();
    });
    assert_eq!([twice, unknown, gone], ["I1"; 3]);
}

#[test]
fn groups_and_sessions_know_each_other() {
    let unknown = violated_by(|shard, key| login(shard, key).groups.push(4));
    let forgotten = violated_by(|shard, key| login(shard, key).groups.clear());
    let too_early = violated_by(|shard, key| {
        let group = shard.groups.get_mut(&3).expect("a group");
        group.members.get_mut(&key.slot).expect("a member").floor = 6;
    });
    assert_eq!([unknown, forgotten, too_early], ["I2"; 3]);
}

#[test]
fn nothing_is_kept_of_the_input_of_what_has_ended() {
    let found = violated_by(|shard, _| {
        let other = connect(shard);
        let connection = connection(shard, other);
        connection.session.end(CloseReason::Quit);
        connection.input.push(b'x');
    });
    assert_eq!(found, "I3");
}

#[test]
fn a_list_and_its_mark_go_together() {
    let unmarked = violated_by(|shard, key| shard.throttled.push(key));
    let twice = violated_by(|shard, key| shard.dirty.extend([key, key]));
    let unlisted = violated_by(|shard, key| connection(shard, key).throttled = true);
    assert_eq!([unmarked, twice, unlisted], ["I4"; 3]);
}

#[test]
fn nothing_waits_without_a_reason() {
    let waiting = violated_by(|shard, key| login(shard, key).early.push(direct(7, 1)));
    let noted = violated_by(|shard, key| {
        let event = (3, Membership::Left);
        login(shard, key).membership_news.push(event);
    });
    let caught_up = violated_by(|shard, key| {
        shard.open_window(key);
        shard.window_mut(key).expect("a window").catching_up = true;
    });
    let paused = violated_by(|shard, _| {
        let group = shard.groups.get_mut(&3).expect("a group");
        group.messages.pause();
    });
    let found = [waiting, noted, caught_up, paused];
    assert_eq!(found, ["I5", "I5", "I6", "I7"]);
}

#[test]
fn gauges_and_the_wheel_tell_what_there_is() {
    let open = violated_by(|shard, _| shard.metrics.connections(Carrier::Line).inc());
    let forgotten = violated_by(|shard, _| shard.wheel.advance(u64::MAX, |_| None));
    assert_eq!([open, forgotten], ["I11", "I12"]);
}
