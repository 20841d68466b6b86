//! Services that share a file while they run: two in this process, which have a connection each,
//! and one in a process of its own that is killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    threads::{PATIENCE, Running, send},
    *,
};

const SHARED: StorageMode = StorageMode::Backend {
    exclusive: false,
    route_lifetime: Duration::from_secs(120),
};
/// Where the process to be killed finds the file; not set, there is nothing to do for it.
const DIRECTORY: &str = "IM_GATEWAY_TEST_SHARED_DIRECTORY";
/// Ids of the messages it sends are above this.
const ITS_IDS: i64 = 1_000_000;

fn group_send(from: UserId, group_id: i64, msg_id: i64) -> proto::SendGroupRequest {
    proto::SendGroupRequest {
        msg: Some(proto::GroupMsg {
            msg_id,
            from,
            group_id,
            ts_ms: START_MS,
            text: "x".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// All unconfirmed messages of `user` as (number, id): of the inbox, of groups.
fn all_of(running: &mut Running, user_id: UserId) -> [Vec<(u64, i64)>; 2] {
    let mut all = [Vec::new(), Vec::new()];
    loop {
        let reply = running.call(proto::PullOfflineRequest {
            user_id,
            limit: 1000,
            ..Default::default()
        });
        let page = proto::PullOfflineResponse::try_from(reply).expect("a pull");
        assert_eq!(code(&page.result), Code::Ok);
        let ids: Vec<i64> = page.msg_list.iter().map(|m| m.msg_id).collect();
        let group_ids: Vec<i64> = page.group_msg_list.iter().map(|m| m.msg_id).collect();
        all[0].extend(page.msg_list.iter().map(|m| (m.seq, m.msg_id)));
        all[1].extend(page.group_msg_list.iter().map(|m| (m.seq, m.msg_id)));
        running.call(proto::AckRequest {
            user_id,
            msg_id_list: ids,
            group_msg_id_list: group_ids,
        });
        if !page.more {
            return all;
        }
    }
}

/// Has messages stored. A disk that is busy may hold the other process up for longer than this one
/// waits for it; then the message is sent again, as a client would.
fn store(running: &mut Running, mut requests: Vec<Request>) {
    let deadline = Instant::now() + PATIENCE;
    while !requests.is_empty() {
        assert!(Instant::now() < deadline, "the store takes nothing");
        let calls: Vec<u64> = requests
            .iter()
            .map(|request| running.submit(request.clone()))
            .collect();
        let mut calls = calls.into_iter();
        requests.retain(|_| {
            let reply = calls.next().map(|call_id| running.log.wait_for(call_id));
            let result = match reply {
                Some(Response::Send(reply)) => reply.result,
                Some(Response::SendGroup(reply)) => reply.result,
                _ => panic!("not a message"),
            };
            match code(&result) {
                Code::Ok => false,
                Code::Unavailable => true,
                _ => panic!("{result:?}"),
            }
        });
    }
}

fn assert_dense(numbered: &[(u64, i64)]) {
    let numbers: Vec<u64> = numbered.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=numbered.len() as u64).collect::<Vec<_>>());
}

#[test]
fn two_services_that_hammer_one_inbox_and_one_group_leave_no_hole_and_lose_nothing() {
    const EACH: i64 = 400;
    const FEW: usize = 4;
    let directory = TempDir::new().expect("a directory");
    let mut one = Running::start_as(SHARED, directory.path(), 8);
    let other = Running::start_as(SHARED, directory.path(), 8);
    let alice = one.register("alice", "secret-1").user_id;
    let bob = one.register("bob", "secret-1").user_id;
    let created = one.call(proto::CreateGroupRequest {
        creator_id: alice,
        group_name: "g".to_owned(),
        description: String::new(),
    });
    let group = proto::CreateGroupResponse::try_from(created)
        .expect("a group")
        .group_id;
    one.call(proto::JoinGroupRequest {
        user_id: bob,
        group_id: group,
    });
    let began = Instant::now();
    let mut both = [one, other];
    std::thread::scope(|scope| {
        for (index, running) in both.iter_mut().enumerate() {
            scope.spawn(move || {
                let first = index as i64 * 100_000;
                // A few under way at a time, so that both are busy all along.
                for number in (1..=EACH).step_by(FEW) {
                    let requests: Vec<Request> = (number..number + FEW as i64)
                        .flat_map(|number| {
                            let msg_id = first + 2 * number;
                            [
                                send(alice, bob, msg_id).into(),
                                group_send(alice, group, msg_id + 1).into(),
                            ]
                        })
                        .collect();
                    store(running, requests);
                }
            });
        }
    });
    let took = began.elapsed();
    let [mut one, other] = both;
    other.services.stop();
    let [direct, in_group] = all_of(&mut one, bob);
    assert_eq!(direct.len() as i64, 2 * EACH, "after {took:?}");
    assert_eq!(in_group.len() as i64, 2 * EACH);
    assert_dense(&direct);
    assert_dense(&in_group);
    // Each had its turn while the other was busy, too.
    let halves = direct.split_at(EACH as usize);
    for half in [halves.0, halves.1] {
        let of_one = half.iter().filter(|(_, id)| *id < 100_000).count();
        assert!((1..EACH as usize).contains(&of_one), "{of_one}");
    }
    one.services.stop();
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn the_process_to_be_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let mut running = Running::start_as(SHARED, Path::new(&directory), 8);
    let mut out = std::io::stdout();
    let deadline = Instant::now() + PATIENCE;
    let mut msg_id = ITS_IDS;
    while Instant::now() < deadline {
        msg_id += 1;
        let reply = running.call(send(1, 2, msg_id));
        let reply = proto::SendResponse::try_from(reply).expect("a send");
        if code(&reply.result) == Code::Ok && writeln!(out, "stored {msg_id}").is_err() {
            return;
        }
    }
}

/// Ends the process however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It has ended already where this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_process(directory: &Path) -> Killed {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "service::tests::processes::the_process_to_be_killed",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    Killed(child)
}

#[test]
fn a_process_that_is_killed_takes_nothing_along_that_it_answered_and_holds_nobody_up() {
    let directory = TempDir::new().expect("a directory");
    let mut running = Running::start_as(SHARED, directory.path(), 8);
    let alice = running.register("alice", "secret-1").user_id;
    let bob = running.register("bob", "secret-1").user_id;
    assert_eq!((alice, bob), (1, 2), "as the other process believes");
    let mut answered = Vec::new();
    let mut sent = 0;
    for round in 1..=3 {
        let mut process = start_process(directory.path());
        let out = process.0.stdout.take().expect("its output");
        let mut ids = BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("stored ")?.parse::<i64>().ok());
        // Each goes on with its ids where the one before it was killed: those are repeats.
        while answered.last() < Some(&(ITS_IDS + 60 * round)) {
            answered.push(ids.next().expect("it lives"));
            sent += 1;
            store(&mut running, vec![send(alice, bob, sent).into()]);
        }
        process.0.kill().expect("killed");
        answered.extend(ids);
        drop(process);
    }
    sent += 1;
    store(&mut running, vec![send(alice, bob, sent).into()]);
    let [direct, _] = all_of(&mut running, bob);
    assert_dense(&direct);
    let mut stored: Vec<i64> = direct.iter().map(|(_, id)| *id).collect();
    stored.sort_unstable();
    assert!(stored.is_sorted_by(|a, b| a < b), "each once");
    answered.extend(1..=sent);
    for id in answered {
        assert!(stored.binary_search(&id).is_ok(), "{id} was answered");
    }
    running.services.stop();
}
