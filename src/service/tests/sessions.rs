//! Sessions that are ended before their tokens' time.

use std::time::Duration;

use super::*;
use crate::{
    contract::methods::method,
    proto::{BindRouteRequest, PushKind},
    service::{password::Change, sessions::Credential},
};

const DAY_MS: u64 = 24 * 3_600_000;

fn modes() -> [StorageMode; 2] {
    let backend = StorageMode::Backend {
        exclusive: false,
        route_lifetime: Duration::from_secs(120),
    };
    [StorageMode::Embedded, backend]
}

fn world_of(mode: StorageMode) -> World {
    World::of_mode(mode, TempDir::new().expect("a directory"), 10_000)
}

/// A connection of the session `login_session`, which began in `epoch`.
fn connection(
    user_id: UserId,
    session_id: u64,
    login_session: u64,
    epoch: Option<u64>,
) -> BindRouteRequest {
    BindRouteRequest {
        login_session_id: login_session,
        session_epoch: epoch,
        token_issued_ms: START_MS.cast_unsigned(),
        ..bind_request(user_id, 0, session_id, &format!("device-{session_id}"))
    }
}

impl World {
    fn bind_code(&mut self, request: BindRouteRequest) -> Code {
        let checked = self.call::<method::CheckSession>(proto::CheckSessionRequest {
            user_id: request.user_id,
            login_session_id: request.login_session_id,
            token_issued_ms: request.token_issued_ms,
            session_epoch: request.session_epoch,
        });
        let bound = self.call::<method::BindRoute>(request);
        assert_eq!(code(&checked.result), code(&bound.result));
        assert_eq!(checked.session_epoch, bound.session_epoch);
        code(&bound.result)
    }

    fn end_session(&mut self, user_id: UserId, login_session_id: u64, session_id: u64) {
        let response = self.call::<method::EndSession>(proto::EndSessionRequest {
            user_id,
            login_session_id,
            session_id,
            tokens_live_ms: DAY_MS,
        });
        assert_eq!(code(&response.result), Code::Ok);
    }

    fn end_all(&mut self, user_id: UserId, session_id: u64) {
        let request = proto::EndAllSessionsRequest {
            user_id,
            session_id,
        };
        let response = self.call::<method::EndAllSessions>(request);
        assert_eq!(code(&response.result), Code::Ok);
    }

    /// The sessions that were told that theirs was ended, since the last look.
    fn revoked(&mut self) -> Vec<u64> {
        let kicks = self.published().into_iter().map(|(_, push)| push);
        let kicks = kicks.filter(|push| push.kind() == PushKind::Kick);
        kicks
            .map(|kick| {
                assert_eq!(kick.text, "revoked");
                kick.session_id
            })
            .collect()
    }
}

#[test]
fn an_ended_session_is_bound_no_more_and_its_other_connections_are_told() {
    for mode in modes() {
        let mut world = world_of(mode);
        let alice = world.user("alice");
        for (session_id, login_session) in [(10, 10), (11, 10), (12, 12)] {
            let request = connection(alice, session_id, login_session, Some(0));
            assert_eq!(world.bind_code(request), Code::Ok);
        }
        world.end_session(alice, 10, 10);
        assert_eq!(world.revoked(), [11]);
        assert_eq!(world.bound_sessions(alice), [10, 12]);
        let of_the_ended = connection(alice, 13, 10, Some(0));
        assert_eq!(
            world.bind_code(of_the_ended.clone()),
            Code::Unauthenticated,
            "{mode:?}"
        );
        assert_eq!(
            world.bind_code(connection(alice, 14, 12, Some(0))),
            Code::Ok
        );
        // Whoever says nothing of sessions is let in, as before there were any.
        assert_eq!(world.bind_code(bind_request(alice, 0, 15, "old")), Code::Ok);
        let mut world = world.crashed();
        assert_eq!(world.bind_code(of_the_ended), Code::Unauthenticated);
    }
}

#[test]
fn ending_all_sessions_ends_what_began_before_and_nothing_after_whatever_the_clocks_say() {
    for mode in modes() {
        let mut world = world_of(mode);
        let alice = world.user("alice");
        for (session_id, epoch) in [(10, Some(0)), (11, None)] {
            let request = connection(alice, session_id, session_id, epoch);
            assert_eq!(world.bind_code(request), Code::Ok);
        }
        world.now_ms += 1;
        world.end_all(alice, 10);
        assert_eq!(world.revoked(), [11]);
        let bind = |world: &mut World, session, epoch, issued_ms: i64| {
            world.bind_code(BindRouteRequest {
                token_issued_ms: issued_ms.cast_unsigned(),
                ..connection(alice, session, session, epoch)
            })
        };
        let hour_ms = 3_600_000;
        for (session, epoch, issued_ms, expected) in [
            (20, Some(0), START_MS, Code::Unauthenticated),
            // The clock of its gateway was ahead, or is behind: the epoch tells what came first.
            (21, Some(0), START_MS + hour_ms, Code::Unauthenticated),
            (22, Some(1), START_MS - hour_ms, Code::Ok),
            // Without an epoch there is only the time.
            (23, None, START_MS, Code::Unauthenticated),
            (24, None, START_MS + 1, Code::Ok),
            // An epoch that this store never gave: it is older than what it gave out.
            (25, Some(9), START_MS, Code::Unauthenticated),
            (26, Some(9), START_MS + 1, Code::Ok),
        ] {
            let found = bind(&mut world, session, epoch, issued_ms);
            assert_eq!(found, expected, "session {session} {mode:?}");
        }
        let bound = world.call::<method::BindRoute>(connection(alice, 27, 27, Some(1)));
        assert_eq!(bound.session_epoch, Some(1));
    }
}

#[test]
fn a_login_under_way_while_all_sessions_are_ended_does_not_get_in() {
    let mut world = World::new();
    let alice = world.user("alice");
    // Its password was checked in the first epoch.
    let under_way = connection(alice, 10, 10, Some(0));
    world.end_all(alice, 0);
    assert_eq!(world.bind_code(under_way), Code::Unauthenticated);
}

#[test]
fn another_password_ends_all_sessions_but_its_own_and_every_login_by_the_old_one() {
    for mode in modes() {
        let mut world = world_of(mode);
        let alice = world.user("alice");
        for (session_id, login_session) in [(10, 10), (11, 10), (12, 12)] {
            let request = connection(alice, session_id, login_session, Some(0));
            assert_eq!(world.bind_code(request), Code::Ok);
        }
        let change = Change {
            user: alice,
            session: Credential {
                login_session: 10,
                epoch: Some(0),
                issued_ms: START_MS.cast_unsigned(),
            },
            network: Vec::new(),
        };
        let rehashed = |world: &mut World, change: &Change, hash: &str| {
            let item = world.judged(Verdict::Rehashed {
                change: change.clone(),
                hash: hash.to_owned(),
            });
            match world.outcome(item) {
                Outcome::Reply(Response::ChangePassword(response)) => response,
                _ => panic!("not a change"),
            }
        };
        let response = rehashed(&mut world, &change, "another hash");
        assert_eq!(code(&response.result), Code::Ok);
        assert_eq!(response.session_epoch, Some(1));
        assert_eq!(world.revoked(), [12], "{mode:?}");
        for (session, epoch, expected) in [
            (10, Some(0), Code::Ok),
            (12, Some(0), Code::Unauthenticated),
            // A login whose password was checked before the change.
            (20, Some(0), Code::Unauthenticated),
            (21, Some(1), Code::Ok),
        ] {
            let request = connection(alice, 30 + session, session, epoch);
            assert_eq!(world.bind_code(request), expected, "session {session}");
        }
        // Ended while its new password was hashed: nothing is changed.
        world.end_all(alice, 0);
        let late = rehashed(&mut world, &change, "a third hash");
        assert_eq!(code(&late.result), Code::Unauthenticated);
        let hashes = world.count("SELECT count(*) FROM users WHERE password_hash = 'another hash'");
        assert_eq!(hashes, 1);
    }
}

#[test]
fn nobody_ends_the_sessions_of_a_user_who_is_not_there() {
    let mut world = World::new();
    let ended = world.call::<method::EndAllSessions>(proto::EndAllSessionsRequest {
        user_id: 4711,
        session_id: 0,
    });
    assert_eq!(code(&ended.result), Code::NotFound);
    let ended = world.call::<method::EndSession>(proto::EndSessionRequest {
        user_id: 4711,
        login_session_id: 1,
        ..Default::default()
    });
    assert_eq!(code(&ended.result), Code::NotFound);
}

#[test]
fn what_is_kept_of_ended_sessions_is_bounded_and_swept_when_their_tokens_have_expired() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let rows = |world: &World| world.count("SELECT count(*) FROM ended_sessions");
    world.end_session(bob, 1, 1);
    for session in 1..=1000 {
        world.end_session(alice, session, session);
    }
    assert_eq!(rows(&world), 1001);
    // One too many: rather than to forget one, all tokens of the user end.
    world.end_session(alice, 1001, 1001);
    assert_eq!(rows(&world), 2);
    for session in [1, 500, 1001, 2000] {
        let request = connection(alice, 3000 + session, session, Some(0));
        assert_eq!(world.bind_code(request), Code::Unauthenticated);
    }
    assert_eq!(
        world.bind_code(connection(alice, 3000, 3000, Some(1))),
        Code::Ok
    );
    world.now_ms += DAY_MS.cast_signed() - 1;
    world.engine.run_housekeeping(world.now_ms, true);
    assert_eq!(rows(&world), 2);
    world.now_ms += 1;
    world.engine.run_housekeeping(world.now_ms, true);
    assert_eq!(rows(&world), 0);
}

#[test]
fn an_ended_session_is_known_at_once_to_every_process_over_the_file() {
    let directory = Arc::new(TempDir::new().expect("a directory"));
    let [_, backend] = modes();
    let mut one = World::of_mode(backend, Arc::clone(&directory), 10_000);
    let mut other = World::of_mode(backend, directory, 10_000);
    let alice = one.user("alice");
    assert_eq!(one.bind_code(connection(alice, 10, 10, Some(0))), Code::Ok);
    other.end_session(alice, 10, 0);
    assert_eq!(other.revoked(), [10]);
    assert_eq!(
        one.bind_code(connection(alice, 11, 10, Some(0))),
        Code::Unauthenticated
    );
    one.end_all(alice, 0);
    assert_eq!(
        other.bind_code(connection(alice, 12, 12, Some(0))),
        Code::Unauthenticated
    );
}
