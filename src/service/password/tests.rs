//! Hashing, and who is left out of it.

use std::sync::Mutex;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody asks.
struct Nobody;

impl ReplySink for Nobody {
    fn complete(&self, _: Vec<(u64, Response)>) {}
}

fn job(call_id: u64, deadline: Option<Instant>) -> Job {
    Job {
        call_id,
        sink: Arc::new(Nobody),
        deadline,
        task: Task::Verify {
            account: None,
            password: b"anything".to_vec(),
            origin: Origin::default(),
        },
    }
}

type Delivered = Arc<Mutex<Vec<(u64, Verdict)>>>;

/// A pool of one thread, and what it delivered.
fn pool(lane_limit: usize) -> (PasswordPool, Delivered, Arc<metrics::Store>) {
    let delivered = Delivered::default();
    let metrics = Arc::<metrics::Store>::default();
    let into = Arc::clone(&delivered);
    let pool = PasswordPool::start(
        1,
        lane_limit,
        Arc::clone(&metrics),
        move |judged: Judged| {
            let mut delivered = into.lock().expect("not poisoned");
            delivered.push((judged.call_id, judged.verdict));
        },
    );
    (pool.expect("a pool"), delivered, metrics)
}

#[test]
fn a_password_whose_caller_has_given_up_is_not_hashed_and_answered_all_the_same() {
    let (pool, delivered, metrics) = pool(8);
    let now = Instant::now();
    assert!(pool.submit(job(1, Some(now))).is_none());
    assert!(pool.submit(job(2, Some(now + PATIENCE))).is_none());
    assert!(pool.submit(job(3, None)).is_none());
    pool.stop();
    let delivered = delivered.lock().expect("not poisoned");
    let verdicts: Vec<_> = delivered
        .iter()
        .map(|(id, verdict)| (*id, verdict))
        .collect();
    assert!(
        matches!(
            verdicts[..],
            [
                (1, Verdict::TooLate(Purpose::Login)),
                (2, Verdict::Login { user: None, .. }),
                (3, Verdict::Login { user: None, .. }),
            ]
        ),
        "{verdicts:?}"
    );
    assert_eq!(
        metrics.passwords_unhashed.at(PasswordLoss::TooLate).get(),
        1
    );
    assert_eq!(metrics.password_queue_depth.get(), 0);
}

#[test]
fn a_new_account_needs_the_last_quarter_of_its_callers_time_at_most_half_a_second() {
    let since = Instant::now();
    let queued = |waits_ms, task| Queued {
        job: Job {
            task,
            ..job(1, Some(since + Duration::from_millis(waits_ms)))
        },
        since,
    };
    let account = || Task::Hash {
        name: "alice".to_owned(),
        password: b"secret-1".to_vec(),
        network: Vec::new(),
    };
    let before_ms = |queued: &Queued| (queued.begin_before().expect("an end") - since).as_millis();
    for (waits_ms, last_ms) in [(400, 300), (3_000, 2_500)] {
        let queued = queued(waits_ms, account());
        assert_eq!(before_ms(&queued), last_ms);
        assert_eq!(queued.act_before(), queued.begin_before());
    }
    // A login changes nothing that its caller would have to be told of.
    assert_eq!(before_ms(&queued(400, job(1, None).task)), 400);
}

#[test]
fn a_lane_holds_what_can_be_hashed_in_time_and_half_of_it_beside_the_other_lane() {
    let shared = |thread_count, lane_limit| Shared {
        waiting: Mutex::new(Waiting {
            lanes: Lanes::default(),
            hash_time: None,
            is_closed: false,
        }),
        news: Condvar::new(),
        thread_count,
        lane_limit,
        metrics: Arc::default(),
    };
    let room = |shared: &Shared, left_ms: Option<u64>| {
        let left = left_ms.map(Duration::from_millis);
        shared.room(&shared.waiting(), Purpose::Login, left)
    };
    let two = shared(2, 256);
    assert_eq!(
        room(&two, Some(3000)),
        256,
        "nothing is known of hashes yet"
    );
    two.hash_took(Duration::from_millis(50));
    assert_eq!(room(&two, None), 256, "nobody says when he gives up");
    assert_eq!(room(&two, Some(3000)), 120);
    assert_eq!(room(&shared(1, 7), Some(3000)), 7);
    two.waiting().lanes.push(
        Lane::Registrations,
        Vec::new(),
        1,
        Queued {
            job: job(1, None),
            since: Instant::now(),
        },
    );
    assert_eq!(room(&two, Some(3000)), 60);
    assert_eq!(
        room(&two, Some(10)),
        2,
        "an idle thread is always given something"
    );
}

#[test]
fn one_odd_hash_is_forgotten_by_those_that_follow() {
    let (pool, _, _) = pool(8);
    pool.shared.hash_took(Duration::from_secs(3600));
    for _ in 0..200 {
        pool.shared.hash_took(Duration::from_millis(16));
    }
    let hash_time = pool.shared.waiting().hash_time.expect("known");
    assert!(hash_time < Duration::from_millis(20), "{hash_time:?}");
    pool.stop();
}

#[test]
fn a_hash_names_its_algorithm_and_cost_and_verifies_only_its_own_password() {
    let mut memory = Vec::new();
    let stored = hash(b"secret-1", &Salt::generate(), &mut memory).expect("hash");
    assert!(
        stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{stored}"
    );
    assert!(verify(b"secret-1", &stored, &mut memory).expect("verify"));
    assert!(!verify(b"secret-2", &stored, &mut memory).expect("verify"));
}

#[test]
fn an_unknown_user_is_checked_at_the_full_cost_and_refused() {
    let mut memory = Vec::new();
    let task = Task::Verify {
        account: None,
        password: b"anything".to_vec(),
        origin: Origin::default(),
    };
    let verdict = judge(task, &mut memory).expect("the fixed hash is well formed");
    assert!(matches!(verdict, Verdict::Login { user: None, .. }));
    assert_eq!(memory.len(), MEMORY_KIB as usize);
}

#[test]
fn a_damaged_stored_hash_is_an_error_and_not_a_match() {
    for stored in [
        "",
        "x",
        "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5",
        "$scrypt$a$b",
    ] {
        assert!(verify(b"secret-1", stored, &mut Vec::new()).is_err());
    }
}
