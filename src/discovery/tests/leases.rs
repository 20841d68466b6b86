//! Which ids a worker number stands for, whoever had it before and whoever has it meanwhile.

use super::*;
use crate::{
    base::id::FIRST_SERVICE_WORKER,
    discovery::{
        lease::Lessee,
        mark,
        registry::{Registry, Session},
        zookeeper::{self, ZookeeperSession},
    },
    machine::unix_time::unix_ms,
};

fn now_ms() -> u64 {
    u64::try_from(unix_ms()).expect("after 1970")
}

impl Stranger {
    /// Leaves a mark, as another gateway does.
    async fn leave_mark(&self, number: u16, until_ms: u64) {
        let path = format!("/im-gateway/marks/{number}");
        let data = format!("{until_ms} stranger");
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        match self.0.create(&path, data.as_bytes(), &options).await {
            Ok(_) => {}
            Err(zk::Error::NodeExists) => {
                let written = self.0.set_data(&path, data.as_bytes(), None).await;
                written.expect("written");
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    async fn mark(&self, number: u16) -> u64 {
        let text = self.text(&format!("/im-gateway/marks/{number}")).await;
        let text = text.expect("a mark");
        let (until_ms, _) = text.split_once(' ').expect("two words");
        until_ms.parse().expect("a number")
    }
}

/// Runs `test` with a session below a root of its own, as one gateway has it, and a stranger.
fn with_session(root: &str, test: impl AsyncFnOnce(ZookeeperSession, Stranger)) {
    let server = shared();
    let hosts = server.hosts(root);
    run(async {
        let status = Discovery::default();
        let mut connection = zookeeper::Zookeeper::new(&hosts, SESSION_TIMEOUT, &status);
        let session = connection.begin().await;
        session.ensure(mark::MARKS).await.expect("made");
        test(session, Stranger::connect(&hosts).await).await;
        connection.close().await;
    });
}

#[test]
fn marks_stay_and_a_restart_takes_numbers_that_nobody_used_lately() {
    let server = shared();
    let hosts = server.hosts("/marks-stay");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            let before = now_ms();
            let gateway = Gateway::ready(&hosts, "gw").await;
            let leases = gateway.leases();
            gateway.stop().await;
            for lease in leases {
                assert_eq!(lease.from_ms, 0, "ids begin with the clock");
                assert!(lease.until_ms > before);
                assert_eq!(stranger.mark(lease.worker).await, lease.until_ms);
                seen.push(lease.worker);
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6, "each start has other numbers");
    });
}

#[test]
fn where_every_number_was_used_lately_ids_begin_behind_the_oldest_marks() {
    let server = shared();
    let hosts = server.hosts("/all-recent");
    run(async {
        let stranger = Stranger::connect(&hosts).await;
        stranger.put("/im-gateway/marks/to-make-it", b"").await;
        // A clock was an hour ahead, and has been set right since.
        let ahead = now_ms() + 3_600_000;
        for number in 0..FIRST_SERVICE_WORKER {
            let later = u64::from(number.abs_diff(500));
            stranger.leave_mark(number, ahead + later).await;
        }
        let gateway = Gateway::ready(&hosts, "gw").await;
        let mut leases = gateway.leases();
        leases.sort_by_key(|lease| lease.from_ms);
        let begins: Vec<u64> = leases.iter().map(|lease| lease.from_ms).collect();
        assert_eq!(begins, [ahead, ahead + 1]);
        assert_eq!(leases[0].worker, 500);
        for lease in leases {
            assert!(lease.until_ms > lease.from_ms);
            assert_eq!(stranger.mark(lease.worker).await, lease.until_ms);
        }
        gateway.stop().await;
    });
}

#[test]
fn a_number_lost_to_another_is_given_up_and_the_next_ones_ids_reach_further() {
    let server = shared();
    let hosts = server.hosts("/lost");
    run(async {
        let gateway = Gateway::start(WatchOptions {
            interval: Duration::from_millis(100),
            ..watch_options(&hosts, "gw")
        });
        eventually("the first table", || gateway.table().is_some()).await;
        let before = gateway.leases();
        let stranger = Stranger::connect(&hosts).await;
        let lost = before[0].worker;
        // Another gateway has leased it while this one was cut off.
        let path = format!("/im-gateway/workers/{lost}");
        stranger.delete(&path).await;
        stranger.put(&path, b"another").await;
        stranger.leave_mark(lost, before[0].until_ms + 7).await;
        eventually("another number", || gateway.leases()[0].worker != lost).await;
        let after = gateway.leases();
        assert!(after[0].until_ms > before[0].until_ms);
        assert_eq!(after[1].worker, before[1].worker);
        // The number that was lost is as the other one left it.
        assert_eq!(stranger.mark(lost).await, before[0].until_ms + 7);
        gateway.stop().await;
    });
}

#[test]
fn a_mark_that_another_raised_or_deleted_is_begun_behind() {
    let server = shared();
    let hosts = server.hosts("/foreign-mark");
    run(async {
        let gateway = Gateway::start(WatchOptions {
            interval: Duration::from_millis(100),
            ..watch_options(&hosts, "gw")
        });
        eventually("the first table", || gateway.table().is_some()).await;
        let before = gateway.leases();
        let stranger = Stranger::connect(&hosts).await;
        let raised = before[0].until_ms + 1000;
        stranger.leave_mark(before[0].worker, raised).await;
        eventually("behind it", || gateway.leases()[0].from_ms == raised).await;
        assert_eq!(gateway.leases()[0].worker, before[0].worker);
        let deleted = gateway.leases()[1];
        stranger
            .delete(&format!("/im-gateway/marks/{}", deleted.worker))
            .await;
        eventually("further on", || {
            gateway.leases()[1].until_ms > deleted.until_ms
        })
        .await;
        gateway.stop().await;
    });
}

#[test]
fn a_lease_is_extended_when_it_is_due_and_of_two_who_extend_it_one_can() {
    with_session("/extended", async |session, stranger| {
        let lessee = Lessee::new("gw");
        let first = lessee.lease(&session, 2, &[]).await.expect("leased");
        let again = lessee.lease(&session, 2, &first).await.expect("leased");
        assert_eq!(first[0].lease, again[0].lease, "not due yet");
        let mut due = again;
        due[0].raised -= Duration::from_secs(30);
        let extended = lessee.lease(&session, 2, &due).await.expect("leased");
        let (was, is) = (due[0].lease, extended[0].lease);
        assert_eq!((is.worker, is.from_ms), (was.worker, was.from_ms));
        assert!(is.until_ms >= was.until_ms + 30_000);
        assert_eq!(stranger.mark(is.worker).await, is.until_ms);
        assert_eq!(extended[1].lease, due[1].lease);

        let seen = mark::read(&session, is.worker).await.expect("an answer");
        let raise = async |until_ms, token| {
            let raised = mark::raise(&session, is.worker, seen.as_ref(), until_ms, token);
            raised.await.expect("an answer")
        };
        let both = (
            raise(is.until_ms + 1, "one").await,
            raise(is.until_ms + 2, "two").await,
        );
        assert_eq!(both, (true, false));
        assert_eq!(stranger.mark(is.worker).await, is.until_ms + 1);
    });
}

#[test]
fn a_mark_that_cannot_be_read_makes_its_number_useless_and_nothing_else() {
    with_session("/unreadable", async |session, stranger| {
        let lessee = Lessee::new("gw");
        let first = lessee.lease(&session, 1, &[]).await.expect("leased");
        let number = first[0].lease.worker;
        let path = format!("/im-gateway/marks/{number}");
        let written = stranger.0.set_data(&path, b"\xff", None).await;
        written.expect("written");
        let next = lessee.lease(&session, 1, &first).await.expect("leased");
        assert_ne!(next[0].lease.worker, number);
    });
}
