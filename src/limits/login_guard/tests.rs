//! That guessing is slowed down and nobody else is, and that the tables stay bounded.

use super::*;
use proptest::prelude::*;

const OPTIONS: LoginGuardOptions = LoginGuardOptions {
    attempts: 3,
    delay_ms: 1_000,
    delay_max_ms: 300_000,
    capacity: 100,
};

fn ip(n: u32) -> Option<IpAddr> {
    Some(IpAddr::V4((0x0a00_0000 + n).into()))
}

/// For how long the door is closed.
fn wait_ms(checked: Result<(), Held>) -> u64 {
    match checked {
        Ok(()) => 0,
        Err(Held::For(wait_ms) | Held::ByName(wait_ms)) => wait_ms,
        Err(Held::Behind) => panic!("nobody is in front"),
    }
}

/// Fails as soon as it is allowed to, `count` times; returns the waits in between and the time
/// after it all.
fn fail(
    guard: &mut LoginGuard,
    ip: Option<IpAddr>,
    user: &str,
    count: usize,
    mut now_ms: u64,
) -> (Vec<u64>, u64) {
    let mut waits = Vec::new();
    for _ in 0..count {
        let wait_ms = wait_ms(guard.check(ip, user, now_ms));
        waits.push(wait_ms);
        now_ms += wait_ms;
        assert_eq!(guard.check(ip, user, now_ms), Ok(()));
        guard.failed(ip, user, now_ms);
    }
    (waits, now_ms)
}

#[test]
fn a_few_failures_are_free_and_then_the_delay_doubles_up_to_the_longest() {
    let mut guard = LoginGuard::new(OPTIONS);
    // The user name is another one each time, so only the network counts.
    let mut waits = Vec::new();
    let mut now_ms = 7;
    for n in 0..40 {
        let (wait, after) = fail(&mut guard, ip(1), &format!("user{n}"), 1, now_ms);
        waits.extend(wait);
        now_ms = after;
    }
    assert_eq!(
        waits[..13],
        [
            0, 0, 0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000
        ]
    );
    // One failure is forgotten every 300 seconds meanwhile, so the last step takes a few more.
    assert!(
        waits[13..]
            .iter()
            .all(|wait_ms| [256_000, 300_000].contains(wait_ms))
    );
    assert_eq!(waits.last(), Some(&300_000));
    assert_eq!(guard.check(ip(2), "user3", now_ms), Ok(()));
}

#[test]
fn guessing_one_name_from_everywhere_is_slowed_down_and_the_delay_is_capped() {
    let mut guard = LoginGuard::new(OPTIONS);
    let mut now_ms = 0;
    let mut waits = Vec::new();
    for n in 0..40 {
        let (wait, after) = fail(&mut guard, ip(n), "victim", 1, now_ms);
        waits.extend(wait);
        now_ms = after;
    }
    assert_eq!(waits[..7], [0, 0, 0, 0, 1_000, 2_000, 4_000]);
    assert_eq!(waits.iter().max(), Some(&USER_DELAY_MAX_MS));
    assert_eq!(guard.check(ip(99), "somebody else", now_ms), Ok(()));
}

#[test]
fn the_owner_of_a_name_is_let_in_from_where_the_name_logged_in_before() {
    let mut guard = LoginGuard::new(OPTIONS);
    let home = ip(77);
    guard.succeeded(home, "victim", 0);
    let mut now_ms = 0;
    for n in 0..40 {
        now_ms = fail(&mut guard, ip(n), "victim", 1, now_ms).1;
    }
    assert!(guard.check(ip(78), "victim", now_ms).is_err());
    assert_eq!(guard.check(home, "victim", now_ms), Ok(()));
    // Guessing from there is slowed down all the same.
    let waits = fail(&mut guard, home, "victim", 6, now_ms).0;
    assert_eq!(waits, [0, 0, 0, 0, 1_000, 2_000]);
    assert_eq!(
        guard.check(home, "other name", now_ms + 3_000),
        Err(Held::For(4_000))
    );
}

#[test]
fn a_success_forgets_the_names_failures_but_not_the_networks() {
    let mut guard = LoginGuard::new(OPTIONS);
    let now_ms = fail(&mut guard, ip(1), "alice", 4, 0).1;
    assert_eq!(
        guard.check(ip(2), "alice", now_ms),
        Err(Held::ByName(1_000))
    );
    guard.succeeded(ip(2), "alice", now_ms);
    assert_eq!(guard.check(ip(3), "alice", now_ms), Ok(()));
    assert_eq!(guard.check(ip(1), "alice", now_ms), Err(Held::For(1_000)));
}

#[test]
fn an_own_account_does_not_help_to_guess_at_another() {
    let mut guard = LoginGuard::new(OPTIONS);
    let mut now_ms = 0;
    let mut waits = Vec::new();
    for n in 0..6 {
        let (wait, after) = fail(&mut guard, ip(1), &format!("victim{n}"), 1, now_ms);
        waits.extend(wait);
        guard.succeeded(ip(1), "mallory", after);
        now_ms = after;
    }
    assert_eq!(waits, [0, 0, 0, 0, 1_000, 2_000]);
}

#[test]
fn no_more_attempts_are_under_way_than_may_fail_and_good_ones_make_room() {
    use LoginOutcome::{Failed, Faulted, Succeeded};
    let mut guard = LoginGuard::new(OPTIONS);
    // As many at once as one after the other: three free ones, and the one that closes the door.
    for n in 0..4 {
        assert_eq!(guard.begin(ip(1), &format!("user{n}"), 0), Ok(()));
    }
    assert_eq!(guard.begin(ip(1), "user9", 0), Err(Held::Behind));
    assert_eq!(guard.begin(ip(2), "user9", 0), Ok(()));
    // A good one makes room, and so does one without a verdict.
    guard.end(ip(1), "user0", Succeeded, 10);
    assert_eq!(guard.begin(ip(1), "user4", 10), Ok(()));
    guard.end(ip(1), "user4", Faulted, 10);
    assert_eq!(guard.begin(ip(1), "user4", 10), Ok(()));
    for n in 1..=4 {
        guard.end(ip(1), &format!("user{n}"), Failed, 20);
    }
    // Now they have failed: the door is closed for a second, and then it opens for one.
    assert_eq!(guard.begin(ip(1), "user0", 20), Err(Held::For(1_000)));
    assert_eq!(guard.begin(ip(1), "user0", 1_020), Ok(()));
    assert_eq!(guard.begin(ip(1), "user5", 1_020), Err(Held::Behind));
    guard.end(ip(1), "user0", Failed, 1_020);
    assert_eq!(guard.begin(ip(1), "user5", 1_020), Err(Held::For(2_000)));
    guard.end(ip(2), "user9", Failed, 1_020);
    assert!(guard.networks.under_way.counts.is_empty());
    assert!(guard.users.under_way.counts.is_empty());
}

#[test]
fn right_passwords_behind_one_address_are_never_told_to_come_back() {
    let mut guard = LoginGuard::new(OPTIONS);
    let mut waiting: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
    let mut inside = Vec::new();
    for now_ms in 0.. {
        waiting.retain(|user| match guard.begin(ip(1), user, now_ms) {
            Ok(()) => {
                inside.push(user.clone());
                false
            }
            Err(held) => {
                assert_eq!(held, Held::Behind);
                true
            }
        });
        for user in inside.drain(..) {
            guard.end(ip(1), &user, LoginOutcome::Succeeded, now_ms);
        }
        if waiting.is_empty() {
            break;
        }
    }
    assert!(guard.networks.table.entries.is_empty());
}

#[test]
fn attempts_under_way_in_one_name_from_everywhere_count_too() {
    let mut guard = LoginGuard::new(OPTIONS);
    for n in 0..4 {
        assert_eq!(guard.begin(ip(n), "victim", 0), Ok(()));
    }
    assert_eq!(guard.begin(ip(9), "victim", 0), Err(Held::Behind));
    assert_eq!(guard.begin(None, "victim", 0), Err(Held::Behind));
    assert_eq!(guard.begin(ip(9), "somebody else", 0), Ok(()));
}

#[test]
fn behind_an_exempt_address_names_are_counted_and_nothing_else() {
    let mut guard = LoginGuard::new(OPTIONS);
    for n in 0..100 {
        let user = format!("user{n}");
        assert_eq!(guard.check(None, &user, 0), Ok(()));
        guard.failed(None, &user, 0);
    }
    // Guessing one name there is slowed down, there and elsewhere, and no longer than anywhere.
    let (waits, now_ms) = fail(&mut guard, None, "alice", 12, 0);
    assert_eq!(waits[..7], [0, 0, 0, 0, 1_000, 2_000, 4_000]);
    assert_eq!(waits.iter().max(), Some(&USER_DELAY_MAX_MS));
    assert_eq!(
        guard.check(None, "alice", now_ms),
        Err(Held::For(USER_DELAY_MAX_MS))
    );
    assert_eq!(
        guard.check(ip(2), "alice", now_ms),
        Err(Held::ByName(USER_DELAY_MAX_MS))
    );
    // A success there forgets the failures, as anywhere, but makes no network known.
    let later = now_ms + USER_DELAY_MAX_MS;
    guard.succeeded(None, "alice", later);
    assert!(guard.known.entries.is_empty());
    assert_eq!(guard.check(None, "alice", later), Ok(()));
    fail(&mut guard, None, "alice", 4, later);
    assert!(guard.check(None, "alice", later).is_err());
}

#[test]
fn who_is_known_elsewhere_is_held_up_by_his_network_alone() {
    let mut guard = LoginGuard::new(OPTIONS);
    let now_ms = fail(&mut guard, None, "alice", 8, 0).1;
    let home: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(matches!(
        guard.begin(Some(home), "alice", now_ms),
        Err(Held::ByName(_))
    ));
    // As many as may fail, and each failure counts.
    for _ in 0..4 {
        assert_eq!(guard.begin_as_known(home, "alice", now_ms), Ok(()));
    }
    assert_eq!(
        guard.begin_as_known(home, "alice", now_ms),
        Err(Held::Behind)
    );
    for _ in 0..4 {
        guard.end(Some(home), "alice", LoginOutcome::Failed, now_ms);
    }
    assert_eq!(
        guard.begin_as_known(home, "alice", now_ms),
        Err(Held::For(1_000))
    );
}

#[test]
fn an_ipv6_site_is_one_client() {
    let mut guard = LoginGuard::new(OPTIONS);
    for n in 0..4u128 {
        let ip = Some(IpAddr::V6((0x2001_0db8 << 96 | n).into()));
        assert_eq!(guard.check(ip, &format!("user{n}"), 0), Ok(()));
        guard.failed(ip, &format!("user{n}"), 0);
    }
    let neighbour = Some("2001:db8::ffff".parse().unwrap());
    let other_site = Some("2001:db8:0:1::1".parse().unwrap());
    assert_eq!(guard.check(neighbour, "user9", 0), Err(Held::For(1_000)));
    assert_eq!(guard.check(other_site, "user9", 0), Ok(()));
}

#[test]
fn whoever_stops_is_forgotten_one_failure_at_a_time() {
    let mut guard = LoginGuard::new(OPTIONS);
    let after = fail(&mut guard, ip(1), "a", 5, 0).1;
    // Two of the five are forgotten: the next one is the fourth again, the first with a delay.
    let later = after + 2 * OPTIONS.delay_max_ms;
    let waits = fail(&mut guard, ip(1), "b", 2, later).0;
    assert_eq!(waits, [0, 1_000]);
    // Long after, nothing is left of it.
    guard
        .check(ip(1), "a", later + 100 * OPTIONS.delay_max_ms)
        .unwrap();
    assert!(guard.networks.table.entries.is_empty());
    assert!(guard.users.table.entries.is_empty());
}

#[test]
fn ever_so_many_failures_are_forgotten_in_bounded_time() {
    let mut guard = LoginGuard::new(OPTIONS);
    for _ in 0..10_000 {
        guard.failed(ip(1), "alice", 0);
    }
    assert_eq!(
        guard.check(ip(1), "alice", 0),
        Err(Held::For(OPTIONS.delay_max_ms))
    );
    // Three free ones, and the nine doublings and one that take a second past five minutes.
    guard.check(ip(1), "", 13 * OPTIONS.delay_max_ms).unwrap();
    assert!(guard.networks.table.entries.is_empty());
}

#[test]
fn a_victims_record_is_not_flushed_out_by_single_failures_in_other_names() {
    let mut guard = LoginGuard::new(OPTIONS);
    for n in 0..4 {
        guard.failed(ip(n), "victim", 0);
    }
    for n in 0..10_000 {
        guard.failed(ip(1_000 + n), &format!("name{n}"), 500);
    }
    assert_eq!(
        guard.check(ip(99_999), "victim", 500),
        Err(Held::ByName(500))
    );
    assert!(guard.users.table.entries.len() <= OPTIONS.capacity);
    assert!(guard.networks.table.entries.len() <= OPTIONS.capacity);
}

#[test]
fn odd_options_do_no_harm() {
    for (attempts, delay_ms, delay_max_ms, capacity) in [
        (0, 0, 0, 0),
        (0, 1, 0, 1),
        (u32::MAX, u64::MAX, u64::MAX, 1),
        (0, u64::MAX, u64::MAX, 2),
        (1, 5_000, 1_000, 2),
    ] {
        let mut guard = LoginGuard::new(LoginGuardOptions {
            attempts,
            delay_ms,
            delay_max_ms,
            capacity,
        });
        for now_ms in [0, 5, u64::MAX, 3] {
            for n in 0..5 {
                let _ = guard.check(ip(n), "a", now_ms);
                guard.failed(ip(n), "a", now_ms);
                guard.succeeded(ip(n), "b", now_ms);
            }
        }
    }
}

/// One kind of key by the words of the rule: failures forgotten one by one, counted anew each time.
#[derive(Default)]
struct Naive {
    /// When each failure that still counts is forgotten, one after the other.
    forgotten_ms: Vec<u64>,
    open_ms: u64,
}

impl Naive {
    fn failed(
        &mut self,
        now_ms: u64,
        attempts: usize,
        delay_ms: u64,
        delay_max_ms: u64,
        forget_ms: u64,
    ) {
        self.forgotten_ms.retain(|at_ms| *at_ms > now_ms);
        let last_ms = self.forgotten_ms.last().copied().unwrap_or(now_ms);
        self.forgotten_ms.push(last_ms + forget_ms);
        let (mut delay, mut failures_max) = (delay_ms, attempts + 1);
        let mut this_delay = 0;
        for n in attempts + 1.. {
            if n <= self.forgotten_ms.len() {
                this_delay = delay.min(delay_max_ms);
            }
            if delay >= delay_max_ms {
                failures_max = n;
                break;
            }
            delay *= 2;
        }
        if self.forgotten_ms.len() > failures_max {
            self.forgotten_ms.clear();
            self.forgotten_ms
                .extend((1..=failures_max as u64).map(|n| now_ms + n * forget_ms));
        }
        self.open_ms = self.open_ms.max(now_ms + this_delay);
    }
}

proptest! {
    #[test]
    fn it_delays_as_a_plain_list_of_failures_would(
        attempts in 0u32..4,
        steps in prop::collection::vec(
            (0u32..3, 0usize..3, prop_oneof![0u64..2_000, 0u64..200_000], any::<bool>()),
            1..120,
        ),
    ) {
        const DELAY_MS: u64 = 700;
        const DELAY_MAX_MS: u64 = 60_000;
        let mut guard = LoginGuard::new(LoginGuardOptions {
            attempts, delay_ms: DELAY_MS, delay_max_ms: DELAY_MAX_MS, capacity: 10,
        });
        let mut networks: [Naive; 3] = Default::default();
        let mut users: [Naive; 3] = Default::default();
        let names = ["alice", "bob", "carol"];
        let mut now_ms = 0;
        for (network, user, step_ms, fails) in steps {
            now_ms += step_ms;
            let open_ms = networks[network as usize].open_ms.max(users[user].open_ms);
            let checked = guard.check(ip(network), names[user], now_ms);
            prop_assert_eq!(wait_ms(checked), open_ms.saturating_sub(now_ms));
            // Failures also arrive while the door is closed: they were let in together.
            if fails {
                guard.failed(ip(network), names[user], now_ms);
                let attempts = attempts as usize;
                let network = &mut networks[network as usize];
                network.failed(now_ms, attempts, DELAY_MS, DELAY_MAX_MS, DELAY_MAX_MS);
                users[user].failed(now_ms, attempts, DELAY_MS, USER_DELAY_MAX_MS, DELAY_MAX_MS);
            }
        }
    }

    #[test]
    fn its_tables_stay_bounded_and_no_wait_exceeds_the_longest(
        capacity in 0usize..6,
        steps in prop::collection::vec((0u32..30, 0u8..30, 0u64..100_000, 0u8..3), 1..300),
    ) {
        let mut guard = LoginGuard::new(LoginGuardOptions { capacity, ..OPTIONS });
        // The clock jumps about: each time is taken as it comes.
        for (network, user, now_ms, what) in steps {
            let user = user.to_string();
            match what {
                0 => {
                    if let Err(held) = guard.check(ip(network), &user, now_ms) {
                        let wait_ms = wait_ms(Err(held));
                        prop_assert!((1..=OPTIONS.delay_max_ms).contains(&wait_ms));
                    }
                }
                1 => guard.failed(ip(network), &user, now_ms),
                _ => guard.succeeded(ip(network), &user, now_ms),
            }
            prop_assert!(guard.networks.table.entries.len() <= capacity);
            prop_assert!(guard.users.table.entries.len() <= capacity);
            prop_assert!(guard.known.entries.len() <= capacity);
        }
    }
}
