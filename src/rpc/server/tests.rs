//! The rules of a connection, without a socket: what comes in, in whatever pieces, and what goes
//! out, in which order.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::connection::{Connection, Limits, Offer};
use crate::{
    contract::methods::{Request, Response, Service},
    metrics,
    proto::{self, Code, GetProfileRequest, PingRequest, ReplyStatus},
    rpc::wire::{
        WireError,
        mprpc::{
            CallHead, FramingError, read_classic_reply, read_reply, write_call,
            write_classic_length,
        },
    },
};

const NOW_MS: i64 = 1_760_000_000_000;
const TIMEOUT_MS: u32 = 3000;
const MAX: usize = 1 << 20;
const ROOMY: Limits = Limits {
    args_bytes: 1024,
    calls: 1000,
    calls_bytes: 1 << 20,
    unsent_bytes: 1 << 20,
    replies_bytes: 1 << 20,
    page_bytes: 1000,
};

/// A connection and services that answer when they are told to.
struct Bench {
    connection: Connection,
    metrics: Arc<metrics::Server>,
    /// Calls that the services have: their numbers and whose profile is asked for.
    taken: Vec<(u64, i64)>,
    /// How many more calls the services have room for.
    room: usize,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let metrics: Arc<metrics::Server> = Arc::default();
        let offer = Offer::of(&[Service::User, Service::Message]);
        Self {
            connection: Connection::new(offer, limits, Arc::clone(&metrics)),
            metrics,
            taken: Vec::new(),
            room: usize::MAX,
        }
    }

    #[allow(
        clippy::result_large_err,
        reason = "the connection goes on with the request itself"
    )]
    fn receive(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (taken, room) = (&mut self.taken, &mut self.room);
        self.connection
            .receive(bytes, NOW_MS, &mut |number, request, timeout_ms| {
                assert_eq!(timeout_ms, TIMEOUT_MS);
                if *room == 0 {
                    return Err(request);
                }
                *room -= 1;
                let user_id = match request {
                    Request::GetProfile(asked) => asked.user_id,
                    Request::PullOffline(asked) => asked.user_id,
                    _ => panic!("that is not asked here"),
                };
                taken.push((number, user_id));
                Ok(())
            })
    }

    /// Answers the call at `place` of those taken: with its user's number as the name.
    fn complete(&mut self, place: usize) {
        let (number, user) = self.taken.remove(place);
        self.connection.complete(number, &profile(user));
    }

    fn output(&mut self) -> Vec<u8> {
        let output = self.connection.output().to_vec();
        self.connection.consume(output.len());
        output
    }
}

fn profile(user: i64) -> Response {
    proto::GetProfileResponse {
        result: Some(proto::Result::default()),
        name: user.to_string(),
    }
    .into()
}

fn call(user_id: i64, call_id: u64) -> Vec<u8> {
    named(
        "UserService",
        "GetProfile",
        &GetProfileRequest { user_id },
        call_id,
    )
}

fn ping(payload: &str, call_id: u64) -> Vec<u8> {
    let payload = payload.to_owned();
    named("HealthService", "Ping", &PingRequest { payload }, call_id)
}

fn named(service: &str, method: &str, args: &impl Message, call_id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = CallHead {
        service,
        method,
        call_id,
        timeout_ms: TIMEOUT_MS,
    };
    write_call(head, args, &mut bytes);
    bytes
}

/// The names in a stream of classic replies.
fn classic_names(mut bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((message, taken)) = read_classic_reply(bytes, MAX).expect("replies") {
        names.push(
            proto::GetProfileResponse::decode(message)
                .expect("a profile")
                .name,
        );
        bytes = &bytes[taken..];
    }
    assert!(bytes.is_empty());
    names
}

/// The ids and states in a stream of replies with ids.
fn statuses(mut bytes: &[u8]) -> Vec<(u64, ReplyStatus)> {
    let mut found = Vec::new();
    while let Some((frame, taken)) = read_reply(bytes, MAX).expect("replies") {
        found.push((frame.header.call_id, frame.header.status()));
        bytes = &bytes[taken..];
    }
    assert!(bytes.is_empty());
    found
}

#[test]
fn calls_are_found_at_every_split_of_the_stream() {
    let stream: Vec<u8> = [call(1, 0), call(2, 77), ping("x", 5), call(3, 0)].concat();
    for split in 0..=stream.len() {
        let mut bench = Bench::new(ROOMY);
        bench.receive(&stream[..split]).expect("calls");
        bench.receive(&stream[split..]).expect("calls");
        let users: Vec<i64> = bench.taken.iter().map(|(_, user)| *user).collect();
        assert_eq!(users, [1, 2, 3], "split at {split}");
        assert_eq!(statuses(&bench.output()), [(5, ReplyStatus::ReplyOk)]);
        assert!(!bench.connection.is_mid_call());
    }
    let mut bench = Bench::new(ROOMY);
    for byte in &stream {
        bench.receive(std::slice::from_ref(byte)).expect("calls");
    }
    assert_eq!(bench.taken.len(), 3);
}

#[test]
fn a_reply_with_an_id_waits_for_nobody() {
    let mut bench = Bench::new(ROOMY);
    bench
        .receive(&[call(1, 10), call(2, 20), call(3, u64::MAX)].concat())
        .expect("calls");
    bench.complete(2);
    bench.complete(0);
    let replied = statuses(&bench.output());
    let ok = ReplyStatus::ReplyOk;
    assert_eq!(replied, [(u64::MAX, ok), (10, ok)]);
    assert!(!bench.connection.is_done());
    bench.complete(0);
    assert_eq!(statuses(&bench.output()), [(20, ok)]);
    assert!(bench.connection.is_done());
}

#[test]
fn what_is_not_understood_takes_no_turn() {
    let mut bench = Bench::new(ROOMY);
    let nothing = PingRequest::default();
    let stream = [
        call(1, 0),
        named("UserService", "Fly", &nothing, 0),
        named("GroupService", "CreateGroup", &nothing, 0),
        named("UserService", "Fly", &nothing, 3),
        named("GroupService", "CreateGroup", &nothing, 4),
        call(2, 0),
    ]
    .concat();
    bench.receive(&stream).expect("calls");
    let unknown = ReplyStatus::ReplyUnknownMethod;
    assert_eq!(statuses(&bench.output()), [(3, unknown), (4, unknown)]);
    let bad_call = bench.connection.take_bad_call().expect("one");
    assert_eq!(bad_call.method, "Fly");
    assert_eq!(bench.connection.take_bad_call(), None);
    bench.complete(1);
    bench.complete(0);
    assert_eq!(classic_names(&bench.output()), ["1", "2"]);
}

#[test]
fn services_without_room_are_told_of_in_the_form_asked_for() {
    let mut bench = Bench::new(ROOMY);
    bench.room = 1;
    bench
        .receive(&[call(1, 0), call(2, 0), call(3, 9)].concat())
        .expect("calls");
    assert_eq!(
        statuses(&bench.output()),
        [(9, ReplyStatus::ReplyOverloaded)]
    );
    bench.complete(0);
    let output = bench.output();
    let (first, taken) = read_classic_reply(&output, MAX)
        .expect("a reply")
        .expect("whole");
    let first = proto::GetProfileResponse::decode(first).expect("a profile");
    assert_eq!(first.name, "1");
    let (second, _) = read_classic_reply(&output[taken..], MAX)
        .expect("a reply")
        .expect("whole");
    let second = proto::GetProfileResponse::decode(second).expect("a profile");
    assert_eq!(second.result.expect("a result").code(), Code::Unavailable);
    assert!(bench.connection.is_done());
}

#[test]
fn no_call_is_taken_past_a_limit_and_all_are_taken_in_the_end() {
    let of_calls = Limits { calls: 3, ..ROOMY };
    let of_bytes = Limits {
        calls_bytes: 5,
        ..ROOMY
    };
    for limits in [of_calls, of_bytes] {
        for call_id in [0, 1] {
            let mut bench = Bench::new(limits);
            let stream: Vec<u8> = (1..=10).flat_map(|user| call(user, call_id)).collect();
            bench.receive(&stream).expect("calls");
            let mut done = 0;
            while done < 10 {
                assert_eq!(bench.taken.len(), 3.min(10 - done), "three at a time");
                assert!(done + bench.taken.len() == 10 || !bench.connection.wants_input());
                bench.complete(0);
                done += 1;
                if bench.connection.can_go_on() {
                    bench.receive(&[]).expect("calls");
                }
            }
            assert!(bench.connection.wants_input());
        }
    }
}

#[test]
fn classic_turns_count_as_calls_though_the_services_have_none_of_them() {
    let mut bench = Bench::new(Limits { calls: 4, ..ROOMY });
    let pings: Vec<u8> = (0..10).flat_map(|_| ping("", 0)).collect();
    bench.receive(&[call(1, 0), pings].concat()).expect("calls");
    assert!(!bench.connection.wants_input());
    assert!(bench.output().is_empty());
    bench.complete(0);
    assert!(bench.connection.can_go_on());
    bench.receive(&[]).expect("calls");
    assert!(bench.connection.is_mid_call() || bench.connection.wants_input());
    assert!(!bench.output().is_empty());
}

#[test]
fn calls_whose_answers_may_be_long_are_taken_a_few_at_a_time() {
    let mut bench = Bench::new(Limits {
        replies_bytes: 2500,
        ..ROOMY
    });
    let pull = |user_id| {
        let asked = proto::PullOfflineRequest {
            user_id,
            ..Default::default()
        };
        named("MessageService", "PullOffline", &asked, 1)
    };
    let stream: Vec<u8> = (1..=7)
        .flat_map(|user| [pull(user), call(user, 2)].concat())
        .collect();
    bench.receive(&stream).expect("calls");
    assert_eq!(bench.taken.len(), 5, "three pages, and what is between");
    while !bench.taken.is_empty() {
        bench.complete(0);
        bench.output();
        if bench.connection.can_go_on() {
            bench.receive(&[]).expect("calls");
        }
        assert!(bench.taken.len() <= 6);
    }
    assert!(bench.connection.wants_input() && bench.connection.is_done());
}

#[test]
fn a_peer_that_does_not_read_is_given_no_more_work() {
    let mut bench = Bench::new(Limits {
        unsent_bytes: 100,
        ..ROOMY
    });
    let payload = "p".repeat(60);
    let stream: Vec<u8> = (1..=4).flat_map(|id| ping(&payload, id)).collect();
    bench.receive(&stream).expect("calls");
    assert!(!bench.connection.wants_input());
    let length = bench.connection.output().len();
    bench.connection.consume(length - 50);
    assert!(bench.connection.can_go_on());
    bench.receive(&[]).expect("calls");
    bench.output();
    bench.receive(&[]).expect("calls");
    bench.output();
    assert!(bench.connection.wants_input());
}

#[test]
fn a_stop_takes_no_call_and_answers_those_it_has() {
    let mut bench = Bench::new(ROOMY);
    bench.receive(&call(1, 0)).expect("calls");
    bench.connection.stop();
    bench.receive(&call(2, 0)).expect("calls");
    assert!(!bench.connection.wants_input() && !bench.connection.can_go_on());
    assert!(!bench.connection.is_done());
    bench.complete(0);
    assert_eq!(classic_names(&bench.output()), ["1"]);
    assert!(bench.connection.is_done());
}

#[test]
fn what_is_no_call_is_an_error() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[2, 0, 0, 0, 0xff, 0xff]] {
        assert!(Bench::new(ROOMY).receive(bytes).is_err());
    }
    let header = proto::RpcHeader {
        args_size: 1025,
        ..proto::RpcHeader::default()
    }
    .encode_to_vec();
    let mut bytes = Vec::new();
    write_classic_length(header.len(), &mut bytes);
    bytes.extend(header);
    let refused = Bench::new(ROOMY).receive(&bytes);
    assert!(matches!(
        refused,
        Err(WireError::Framing(FramingError::BodyTooLong(1025)))
    ));
}

#[test]
fn calls_are_counted_by_service_and_outcome() {
    let mut bench = Bench::new(ROOMY);
    bench
        .receive(&[call(1, 0), ping("", 2)].concat())
        .expect("calls");
    bench.complete(0);
    let counted: Vec<_> = bench
        .metrics
        .calls()
        .filter(|(_, _, count)| *count > 0)
        .collect();
    assert_eq!(
        counted,
        [
            ("UserService", "answered", 1),
            ("HealthService", "answered", 1)
        ]
    );
}

proptest! {
    #[test]
    fn classic_replies_keep_the_order_of_their_calls(
        count in 1_usize..40,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        order in prop::collection::vec(any::<prop::sample::Index>(), 40),
        pings in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut bench = Bench::new(Limits { calls: 7, ..ROOMY });
        let stream: Vec<u8> = (1..=count as i64).flat_map(|user| call(user, 0)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut output = Vec::new();
        let mut begun = 0;
        let mut order = order.iter().cycle();
        for (cut, reads) in cuts.into_iter().zip(pings.iter().cycle()) {
            bench.receive(&stream[begun..cut]).expect("calls");
            begun = cut;
            while *reads && !bench.taken.is_empty() {
                let place = order.next().expect("endless").index(bench.taken.len());
                bench.complete(place);
                output.extend(bench.output());
                if bench.connection.can_go_on() {
                    bench.receive(&[]).expect("calls");
                }
            }
        }
        while !bench.taken.is_empty() {
            let place = order.next().expect("endless").index(bench.taken.len());
            bench.complete(place);
            output.extend(bench.output());
            if bench.connection.can_go_on() {
                bench.receive(&[]).expect("calls");
            }
        }
        let expected: Vec<String> = (1..=count).map(|user| user.to_string()).collect();
        prop_assert_eq!(classic_names(&output), expected);
        prop_assert!(bench.connection.is_done());
    }
}
