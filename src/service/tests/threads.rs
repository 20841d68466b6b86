//! The services as they run: threads, queues, order, the end.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::{super::store::sqlite::schema, *};
use crate::{
    base::names::Alphabet,
    contract::bus::Publisher,
    metrics,
    service::{ServiceClient, ServiceOptions, Services, start, thread::Envelope},
};

/// Longest wait for anything here.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Notes in which order pushes and replies come out.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<Event>>);

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Push(i64),
    Reply(u64, Response),
}

impl Publisher for Log {
    fn publish(&self, batch: Vec<(Channel, PushMessage)>) {
        let pushes = batch.iter().map(|(_, push)| Event::Push(push.msg_id));
        self.0.lock().expect("not poisoned").extend(pushes);
    }
}

impl ReplySink for Log {
    fn complete(&self, replies: Vec<(u64, Response)>) {
        let replies = replies
            .into_iter()
            .map(|(id, reply)| Event::Reply(id, reply));
        self.0.lock().expect("not poisoned").extend(replies);
    }
}

impl Log {
    fn events(&self) -> Vec<Event> {
        self.0.lock().expect("not poisoned").clone()
    }

    fn reply(&self, call_id: u64) -> Option<Response> {
        let events = self.0.lock().expect("not poisoned");
        events.iter().rev().find_map(|event| match event {
            Event::Reply(id, reply) if *id == call_id => Some(reply.clone()),
            _ => None,
        })
    }

    pub(super) fn wait_for(&self, call_id: u64) -> Response {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = self.reply(call_id) {
                return reply;
            }
            assert!(Instant::now() < deadline, "no reply to call {call_id}");
            std::thread::yield_now();
        }
    }
}

pub(super) struct Running {
    pub(super) services: Services,
    client: ServiceClient,
    pub(super) log: Arc<Log>,
    metrics: Arc<metrics::Store>,
    next_call_id: u64,
}

impl Running {
    fn start(directory: &Path, password_queue: usize) -> Self {
        Self::start_as(StorageMode::Embedded, directory, password_queue)
    }

    pub(super) fn start_as(storage: StorageMode, directory: &Path, password_queue: usize) -> Self {
        let log = Arc::new(Log::default());
        let metrics = Arc::<metrics::Store>::default();
        let options = ServiceOptions {
            data_dir: directory.to_owned(),
            inbox_limit: 10_000,
            password_threads: 1,
            password_queue,
            own_worker_id: 1023,
            names: Alphabet::default(),
            foreign_users: false,
            storage,
        };
        let services = start(options, log.clone(), metrics.clone(), Arc::new(|_| ()))
            .expect("running services");
        Self {
            client: services.client(),
            services,
            log,
            metrics,
            next_call_id: 0,
        }
    }

    pub(super) fn submit(&mut self, request: impl Into<Request>) -> u64 {
        self.next_call_id += 1;
        let call = Call {
            request: request.into(),
            call_id: self.next_call_id,
            sink: self.log.clone(),
            deadline: None,
        };
        assert!(self.client.submit(call).is_ok(), "the queue is full");
        self.next_call_id
    }

    pub(super) fn call(&mut self, request: impl Into<Request>) -> Response {
        let call_id = self.submit(request);
        self.log.wait_for(call_id)
    }

    pub(super) fn register(&mut self, name: &str, password: &str) -> proto::RegisterResponse {
        let request = proto::RegisterRequest {
            username: name.as_bytes().to_vec(),
            password: password.as_bytes().to_vec(),
            ..Default::default()
        };
        let response = self.call(request);
        proto::RegisterResponse::try_from(response).expect("a registration")
    }

    fn login(&mut self, name: &str, password: &str) -> proto::LoginResponse {
        let response = self.call(login(name, password));
        proto::LoginResponse::try_from(response).expect("a login")
    }
}

fn login(name: &str, password: &str) -> proto::LoginRequest {
    proto::LoginRequest {
        username: name.as_bytes().to_vec(),
        password: password.as_bytes().to_vec(),
        ..Default::default()
    }
}

pub(super) fn send(from: UserId, to: UserId, msg_id: i64) -> proto::SendRequest {
    proto::SendRequest {
        msg: Some(proto::C2cMsg {
            msg_id,
            from,
            to,
            ts_ms: START_MS,
            text: "x".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn an_account_logs_in_with_its_password_only_and_a_stranger_looks_the_same() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1");
    assert_eq!(code(&alice.result), Code::Ok);
    assert_eq!(
        code(&running.register("alice", "secret-2").result),
        Code::AlreadyExists
    );
    let good = running.login("alice", "secret-1");
    assert_eq!(
        (code(&good.result), good.user_id),
        (Code::Ok, alice.user_id)
    );
    let wrong = running.login("alice", "secret-2");
    assert_eq!(code(&wrong.result), Code::Unauthenticated);
    for stranger in ["nobody", "not a name", ""] {
        assert_eq!(running.login(stranger, "secret-1"), wrong);
    }
    running.services.stop();
    // And after a restart.
    let mut running = Running::start(directory.path(), 8);
    assert_eq!(running.login("alice", "secret-1").user_id, alice.user_id);
    running.services.stop();
}

#[test]
fn a_restart_knows_the_greatest_message_id() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    assert_eq!(running.services.last_message_id(), 0);
    let alice = running.register("alice", "secret-1").user_id;
    for msg_id in [START_MS << 22, 7] {
        running.call(send(alice, alice, msg_id));
    }
    running.services.stop();
    let running = Running::start(directory.path(), 8);
    assert_eq!(running.services.last_message_id(), START_MS << 22);
    running.services.stop();
}

#[test]
fn of_two_registrations_of_one_name_at_once_one_wins() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let request = proto::RegisterRequest {
        username: b"alice".to_vec(),
        password: b"secret-1".to_vec(),
        ..Default::default()
    };
    let calls = [
        running.submit(request.clone()),
        running.submit(request.clone()),
    ];
    let mut codes = calls.map(|call_id| {
        let reply = running.log.wait_for(call_id);
        code(
            &proto::RegisterResponse::try_from(reply)
                .expect("a registration")
                .result,
        )
    });
    codes.sort_by_key(|code| *code as i32);
    assert_eq!(codes, [Code::Ok, Code::AlreadyExists]);
    running.services.stop();
}

#[test]
fn a_full_password_queue_refuses_at_once_and_everything_is_answered() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 1);
    let calls: Vec<u64> = (0..20)
        .map(|_| running.submit(login("nobody", "secret")))
        .collect();
    running.services.stop();
    let codes: Vec<Code> = calls
        .iter()
        .map(|call_id| {
            let reply = running
                .log
                .reply(*call_id)
                .expect("answered before the end");
            code(
                &proto::LoginResponse::try_from(reply)
                    .expect("a login")
                    .result,
            )
        })
        .collect();
    assert!(codes.contains(&Code::Unauthenticated));
    assert!(codes.contains(&Code::Unavailable));
    assert_eq!(running.metrics.password_queue_depth.get(), 0);
}

#[test]
fn pushes_go_out_before_the_replies_of_their_commit_and_in_the_order_sent() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    running.call(proto::BindRouteRequest {
        user_id: alice,
        gateway_id: "gw#0".to_owned(),
        session_id: 1,
        ..Default::default()
    });
    let calls: Vec<(i64, u64)> = (1..=500)
        .map(|msg_id| (msg_id, running.submit(send(alice, alice, msg_id))))
        .collect();
    running.log.wait_for(calls[499].1);
    let events = running.log.events();
    let mut pushed = Vec::new();
    let mut replied = Vec::new();
    for event in events {
        match event {
            Event::Push(msg_id) => pushed.push(msg_id),
            Event::Reply(_, Response::Send(reply)) => {
                assert!(pushed.contains(&reply.msg_id), "replied before the push");
                replied.push(reply.msg_id);
            }
            Event::Reply(..) => {}
        }
    }
    let expected: Vec<i64> = (1..=500).collect();
    assert_eq!(pushed, expected);
    assert_eq!(replied, expected);
    running.services.stop();
}

#[test]
fn senders_on_several_threads_leave_no_hole_in_the_numbers() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let client = running.services.client();
            let sink: Arc<dyn ReplySink> = running.log.clone();
            scope.spawn(move || {
                for number in 1..=250 {
                    let msg_id = worker * 1000 + number;
                    let call = Call {
                        request: send(alice, alice, msg_id).into(),
                        call_id: 10_000 + msg_id as u64,
                        sink: Arc::clone(&sink),
                        deadline: None,
                    };
                    assert!(client.submit(call).is_ok());
                }
            });
        }
    });
    let page = running.call(proto::PullOfflineRequest {
        user_id: alice,
        limit: 1000,
        ..Default::default()
    });
    let page = proto::PullOfflineResponse::try_from(page).expect("a pull");
    let numbers: Vec<u64> = page.msg_list.iter().map(|m| m.seq).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    // One sender's messages in the order it sent them.
    for worker in 0..4 {
        let ids: Vec<i64> = page
            .msg_list
            .iter()
            .map(|m| m.msg_id)
            .filter(|id| id / 1000 == worker)
            .collect();
        assert!(ids.is_sorted());
    }
    running.services.stop();
}

#[test]
fn range_confirmations_reach_the_file_while_nobody_asks() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    running.call(send(alice, alice, 1));
    running.call(proto::AckBatchRequest {
        acks: vec![proto::AckRange {
            user_id: alice,
            from_seq: 1,
            to_seq: 1,
            group_id: 0,
        }],
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let copy = TempDir::new().expect("a directory");
        copy_files(directory.path(), copy.path());
        if World::over(copy, 100).pulled(alice).is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "never written");
        std::thread::yield_now();
    }
    running.services.stop();
}

#[test]
fn a_call_that_nobody_waits_for_any_more_is_refused_and_not_done() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    let now = Instant::now();
    let deadlines = [Some(now), Some(now + PATIENCE), None];
    for (number, deadline) in deadlines.into_iter().enumerate() {
        let call = Call {
            request: send(alice, alice, number as i64 + 1).into(),
            call_id: 100 + number as u64,
            sink: running.log.clone(),
            deadline,
        };
        assert!(running.client.submit(call).is_ok());
    }
    let codes = [100, 101, 102].map(|call_id| {
        let reply = running.log.wait_for(call_id);
        code(&proto::SendResponse::try_from(reply).expect("a send").result)
    });
    assert_eq!(codes, [Code::Unavailable, Code::Ok, Code::Ok]);
    running.services.stop();
    let page = World::over(directory, 100).pull(alice);
    assert_eq!(page.msg_list.len(), 2);
}

#[test]
fn an_account_whose_caller_is_being_told_of_failure_is_not_made_later() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let now = Instant::now();
    for (call_id, name, act_before) in [
        (100, "late", Some(now)),
        (101, "in-time", Some(now + PATIENCE)),
        (102, "no-hurry", None),
    ] {
        let judged = Judged {
            call_id,
            sink: running.log.clone(),
            verdict: Verdict::Hashed {
                name: name.to_owned(),
                hash: "no hash".to_owned(),
                network: Vec::new(),
            },
            act_before,
        };
        let queue = &running.client.queue;
        assert!(queue.send(Envelope::Judged(judged)).is_ok());
    }
    let codes = [100, 101, 102].map(|call_id| {
        let reply = running.log.wait_for(call_id);
        let reply = proto::RegisterResponse::try_from(reply).expect("a registration");
        code(&reply.result)
    });
    assert_eq!(codes, [Code::Unavailable, Code::Ok, Code::Ok]);
    assert_eq!(
        code(&running.register("late", "secret-1").result),
        Code::Ok,
        "the name is free"
    );
    running.services.stop();
}

#[test]
fn an_account_is_not_made_after_a_wait_for_the_lock_that_its_caller_did_not_sit_out() {
    let directory = TempDir::new().expect("a directory");
    let shared = StorageMode::Backend {
        exclusive: false,
        route_lifetime: PATIENCE,
    };
    let mut running = Running::start_as(shared, directory.path(), 8);
    let holder = Connection::open(directory.path().join(schema::FILE_NAME)).expect("the database");
    holder.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    let act_before = Instant::now() + Duration::from_millis(100);
    let judged = Judged {
        call_id: 100,
        sink: running.log.clone(),
        verdict: Verdict::Hashed {
            name: "late".to_owned(),
            hash: "no hash".to_owned(),
            network: Vec::new(),
        },
        act_before: Some(act_before),
    };
    assert!(running.client.queue.send(Envelope::Judged(judged)).is_ok());
    // Less than the services wait for the lock.
    while Instant::now() <= act_before {
        std::thread::yield_now();
    }
    holder.execute_batch("ROLLBACK").expect("its end");
    let reply = proto::RegisterResponse::try_from(running.log.wait_for(100));
    assert_eq!(
        code(&reply.expect("a registration").result),
        Code::Unavailable
    );
    assert_eq!(
        code(&running.register("late", "secret-1").result),
        Code::Ok,
        "the name is free"
    );
    running.services.stop();
}

#[test]
fn accounts_that_came_too_late_do_not_keep_the_services_from_ending() {
    let directory = TempDir::new().expect("a directory");
    let running = Running::start(directory.path(), 64);
    let now = Instant::now();
    // Some of these passwords are begun before their caller gives up and done only after.
    let calls: Vec<u64> = (1..=30)
        .map(|number| {
            let request = proto::RegisterRequest {
                username: format!("user-{number}").into_bytes(),
                password: b"secret-1".to_vec(),
                ..Default::default()
            };
            let call = Call {
                request: request.into(),
                call_id: 100 + number,
                sink: running.log.clone(),
                deadline: Some(now + Duration::from_millis(2 * number)),
            };
            assert!(running.client.submit(call).is_ok());
            100 + number
        })
        .collect();
    for call_id in calls {
        running.log.wait_for(call_id);
    }
    let (ended, end) = std::sync::mpsc::channel();
    let services = running.services;
    std::thread::spawn(move || {
        services.stop();
        ended.send(())
    });
    assert_eq!(end.recv_timeout(PATIENCE), Ok(()), "the end never came");
}

#[test]
fn what_is_queued_at_the_end_is_done_and_later_calls_are_given_back() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    let calls: Vec<u64> = (1..=100)
        .map(|msg_id| running.submit(send(alice, alice, msg_id)))
        .collect();
    running.services.stop();
    for call_id in calls {
        assert!(running.log.reply(call_id).is_some());
    }
    let late = Call {
        request: send(alice, alice, 101).into(),
        call_id: 0,
        sink: running.log.clone(),
        deadline: None,
    };
    assert!(running.client.submit(late).is_err());
    // The log was emptied into the main file.
    let log_bytes = std::fs::metadata(directory.path().join("im-gateway.db-wal"))
        .map_or(0, |metadata| metadata.len());
    assert_eq!(log_bytes, 0);
}

#[test]
fn while_the_file_is_held_it_stays_as_it_is_and_messages_are_stored() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start(directory.path(), 10);
    let user = running.register("alice", "wonderland").user_id;
    running.call(send(user, user, 1));
    let file = crate::service::database_file(directory.path());
    let hold = running.client.hold_file().expect("held");
    let held = std::fs::read(&file).expect("read");
    for msg_id in 2..5000 {
        running.submit(send(user, user, msg_id));
    }
    running.call(send(user, user, 5000));
    assert!(std::fs::read(&file).expect("read") == held);
    // It is a whole database, with all that was answered before.
    let copy = TempDir::new().expect("a directory");
    std::fs::write(crate::service::database_file(copy.path()), held).expect("written");
    let copied = Running::start(copy.path(), 10);
    assert_eq!(copied.services.last_message_id(), 1);
    copied.services.stop();
    assert!(hold.end(), "it was as it was");

    let hold = running.client.hold_file().expect("held again");
    let Running { services, .. } = running;
    services.stop();
    assert!(!hold.end(), "an end of the process empties the log");
}

#[test]
fn a_file_that_is_shared_is_copied_as_of_one_moment() {
    let directory = TempDir::new().expect("a directory");
    let shared = StorageMode::Backend {
        exclusive: false,
        route_lifetime: Duration::from_secs(60),
    };
    let mut running = Running::start_as(shared, directory.path(), 10);
    let user = running.register("alice", "wonderland").user_id;
    for msg_id in 1..=3000 {
        running.submit(send(user, user, msg_id));
    }
    running.call(send(user, user, 3001));
    let refused = running.client.hold_file().map(drop);
    assert!(refused.expect_err("others may write").contains("others"));
    for msg_id in 3002..9000 {
        running.submit(send(user, user, msg_id));
    }
    let copy = TempDir::new().expect("a directory");
    let target = crate::service::database_file(copy.path());
    std::fs::write(&target, b"").expect("an empty file");
    crate::service::copy_database(directory.path(), &target).expect("copied");
    let copied = rusqlite::Connection::open(&target).expect("it opens");
    let check: String = copied
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("checked");
    assert_eq!(check, "ok");
    let (count, last): (i64, i64) = copied
        .query_row("SELECT count(*), max(seq) FROM messages", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("messages");
    assert!(count >= 3001 && count == last, "{count} {last}");
    running.services.stop();
}
