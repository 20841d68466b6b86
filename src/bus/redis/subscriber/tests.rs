//! A subscriber against a Redis of a few lines: what it says, what it makes of what comes, and when
//! it gives up.

use std::task::Context;

use futures_lite::future::{block_on, poll_once};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    base::secret::Secret,
    bus::redis::connection::{ANSWER_TIMEOUT_MS, LOGIN_TIMEOUT_MS, PROBE_INTERVAL_MS},
};

fn subscriber() -> Rc<Subscriber> {
    Subscriber::new(RouteId::new("gw-1", 0), None)
}

fn said(send_buffer: &SharedSendBuffer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let sent = send_buffer.send(|unsent| {
        bytes.extend_from_slice(unsent);
        Ok::<_, ()>(unsent.len())
    });
    sent.expect("sent");
    bytes
}

fn is_closed(send_buffer: &SharedSendBuffer) -> bool {
    send_buffer.is_closed(&Context::from_waker(Waker::noop()))
}

fn confirmation(channel: &str) -> Vec<u8> {
    format!(
        ">3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n",
        channel.len()
    )
    .into_bytes()
}

fn published(channel: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        ">3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n",
        channel.len(),
        payload.len()
    )
    .into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

const HELLO: &[u8] = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n";
const CHANNELS: [&str; 4] = ["im:push:gw-1#0", "31329", "im:broadcast", "im:probe:gw-1#0"];

fn events(subscriber: &Subscriber, bytes: &[u8]) -> Vec<BusEvent> {
    let mut events = Vec::new();
    subscriber
        .received(bytes, |event| events.push(event))
        .expect("Redis's protocol");
    events
}

fn listen(subscriber: &Subscriber) -> Rc<SharedSendBuffer> {
    let send_buffer = subscriber.connected(None);
    said(&send_buffer);
    let mut answer = HELLO.to_vec();
    CHANNELS
        .iter()
        .for_each(|name| answer.extend(confirmation(name)));
    answer.extend(published("im:probe:gw-1#0", b""));
    assert_eq!(events(subscriber, &answer), [BusEvent::Listening]);
    send_buffer
}

#[test]
fn it_logs_in_with_its_credentials_and_subscribes_to_all_its_channels() {
    let credentials = Credentials {
        user: "gateway".to_owned(),
        password: Secret::new("open sesame".to_owned()),
    };
    let subscriber = subscriber();
    block_on(poll_once(subscriber.subscribe(7)));
    let said = String::from_utf8(said(&subscriber.connected(Some(&credentials)))).expect("text");
    assert!(said.starts_with(
        "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ngateway\r\n$11\r\nopen sesame\r\n"
    ));
    for name in CHANNELS.into_iter().chain(["im:group:7"]) {
        assert!(said.contains(&format!("\r\n{name}\r\n")), "{name}");
    }
}

#[test]
fn it_listens_once_every_channel_is_confirmed_and_a_probe_came_back() {
    let subscriber = subscriber();
    subscriber.connected(None);
    assert_eq!(events(&subscriber, HELLO), []);
    for name in CHANNELS {
        assert_eq!(events(&subscriber, &confirmation(name)), []);
    }
    assert!(!subscriber.is_listening());
    assert_eq!(
        events(&subscriber, &published(CHANNELS[3], b"")),
        [BusEvent::Listening]
    );
    assert!(subscriber.is_listening());
}

#[test]
fn with_a_key_only_signed_pushes_are_believed_and_on_mpims_channel_plain_ones() {
    let key = Arc::new(PushKey::new(b"the secret of the cluster"));
    let subscriber = Subscriber::new(RouteId::new("gw-1", 0), Some(Arc::clone(&key)));
    listen(&subscriber);
    let push = PushMessage {
        msg_id: 1,
        to: 42,
        text: "hi".to_owned(),
        ..Default::default()
    };
    let bare = push.encode_to_vec();
    let mut signed = bare.clone();
    key.of_channel(CHANNELS[0]).seal(&mut signed, 0);
    let publish = |channel: &str, payload: &[u8]| events(&subscriber, &published(channel, payload));
    assert_eq!(
        publish(CHANNELS[0], &signed),
        [BusEvent::Push(push.clone())]
    );
    assert_eq!(publish(CHANNELS[0], &bare), [BusEvent::Unsigned]);
    assert_eq!(publish(CHANNELS[2], &signed), [BusEvent::Unsigned]);
    assert_eq!(publish("im:group:7", &bare), [BusEvent::Unsigned]);
    assert_eq!(publish(CHANNELS[1], &bare), [BusEvent::Push(push.clone())]);
    let numbered = PushMessage { seq: 1, ..push }.encode_to_vec();
    assert_eq!(publish(CHANNELS[1], &numbered), [BusEvent::Unsigned]);
}

#[test]
fn a_refusal_ends_the_connection_and_tells_no_password() {
    let credentials = Credentials {
        user: "default".to_owned(),
        password: Secret::new("open sesame".to_owned()),
    };
    let subscriber = subscriber();
    subscriber.connected(Some(&credentials));
    let error = subscriber
        .received(b"-WRONGPASS invalid username-password pair\r\n", |_| {
            panic!("no event")
        })
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("invalid username-password pair") && !error.contains("sesame"),
        "{error}"
    );
}

#[test]
fn what_is_no_protocol_and_what_is_too_long_ends_the_connection() {
    let subscriber = subscriber();
    subscriber.connected(None);
    assert!(subscriber.received(b"HTTP/1.1 400\r\n", |_| ()).is_err());
    subscriber.disconnected();
    subscriber.connected(None);
    let head = b">3\r\n$7\r\nmessage\r\n$5\r\n31329\r\n$500000000\r\n";
    assert!(subscriber.received(head, |_| ()).is_ok());
    let chunk = vec![b'x'; 1024 * 1024];
    let taken = (0..32)
        .take_while(|_| subscriber.received(&chunk, |_| ()).is_ok())
        .count();
    assert!(taken <= 16, "{taken} MiB were taken");
}

#[test]
fn a_login_waits_for_its_groups_channel_but_not_for_ever() {
    let subscriber = subscriber();
    let mut closed = Box::pin(subscriber.subscribe(1));
    assert!(
        block_on(poll_once(&mut closed)).is_some(),
        "nobody to wait for"
    );

    let send_buffer = subscriber.connected(None);
    said(&send_buffer);
    let mut confirmed = Box::pin(subscriber.subscribe(2));
    assert!(block_on(poll_once(&mut confirmed)).is_none());
    events(&subscriber, &confirmation("im:group:2"));
    assert!(block_on(poll_once(&mut confirmed)).is_some());

    let mut late = Box::pin(subscriber.subscribe(3));
    assert!(block_on(poll_once(&mut late)).is_none());
    subscriber.tick(SUBSCRIBE_TIMEOUT_MS);
    assert!(block_on(poll_once(&mut late)).is_some());
    assert_eq!(
        events(&subscriber, &confirmation("im:group:3")),
        [BusEvent::LateGroup(3)],
        "what was missed until now is to be fetched"
    );
    let mut again = Box::pin(subscriber.subscribe(3));
    assert!(block_on(poll_once(&mut again)).is_some(), "it is confirmed");

    let mut lost = Box::pin(subscriber.subscribe(4));
    assert!(block_on(poll_once(&mut lost)).is_none());
    subscriber.disconnected();
    assert!(block_on(poll_once(&mut lost)).is_some());
}

#[test]
fn a_probe_that_does_not_come_back_ends_the_connection() {
    let subscriber = subscriber();
    let send_buffer = listen(&subscriber);
    subscriber.tick(PROBE_INTERVAL_MS);
    let probe = String::from_utf8(said(&send_buffer)).expect("text");
    assert!(
        probe.contains("PUBLISH") && probe.contains("im:probe:gw-1#0"),
        "{probe}"
    );
    events(&subscriber, &published("im:probe:gw-1#0", b""));
    subscriber.tick(2 * PROBE_INTERVAL_MS);
    assert!(!is_closed(&send_buffer), "the first one came back");
    // Pushes are no sign of life: they may come while this subscription is gone.
    events(&subscriber, b":1\r\n");
    subscriber.tick(2 * PROBE_INTERVAL_MS + ANSWER_TIMEOUT_MS);
    assert!(is_closed(&send_buffer));
    assert_eq!(subscriber.closed_because(), "its subscriptions are dead");
}

#[test]
fn who_may_subscribe_but_not_publish_is_told_before_it_listens() {
    let subscriber = subscriber();
    subscriber.connected(None);
    let mut answer = HELLO.to_vec();
    CHANNELS
        .iter()
        .for_each(|name| answer.extend(confirmation(name)));
    answer.extend_from_slice(b"-NOPERM no permissions to access a channel\r\n");
    let refused = subscriber.received(&answer, |event| panic!("{event:?}"));
    assert!(
        refused
            .expect_err("refused")
            .to_string()
            .contains("no permissions")
    );
}

#[test]
fn a_login_that_is_not_answered_ends_the_connection() {
    let subscriber = subscriber();
    let send_buffer = subscriber.connected(None);
    subscriber.tick(LOGIN_TIMEOUT_MS - 1);
    assert!(!is_closed(&send_buffer));
    subscriber.tick(LOGIN_TIMEOUT_MS);
    assert!(is_closed(&send_buffer));
}

proptest! {
    #[test]
    fn pushes_are_the_same_however_the_stream_is_cut(
        texts in prop::collection::vec("[a-z\r\n$>*]{0,40}", 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let subscriber = subscriber();
        listen(&subscriber);
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (number, text) in texts.into_iter().enumerate() {
            let msg_id = 1 + number as i64;
            let message = PushMessage { msg_id, to: 42, text, ..Default::default() };
            stream.extend(published("im:push:gw-1#0", &message.encode_to_vec()));
            expected.push(BusEvent::Push(message));
        }
        stream.extend(published("im:push:gw-1#0", b""));
        expected.push(BusEvent::Malformed);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let mut heard = Vec::new();
        let mut from = 0;
        for to in cuts {
            heard.extend(events(&subscriber, &stream[from..to]));
            from = to;
        }
        prop_assert_eq!(heard, expected);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let subscriber = subscriber();
        subscriber.connected(None);
        let _ = subscriber.received(&bytes, |_| ());
    }
}

#[test]
fn a_group_that_nobody_wants_any_more_is_not_late_either() {
    let subscriber = subscriber();
    let _send_buffer = listen(&subscriber);
    let mut late = Box::pin(subscriber.subscribe(3));
    assert!(block_on(poll_once(&mut late)).is_none());
    subscriber.tick(SUBSCRIBE_TIMEOUT_MS);
    assert!(block_on(poll_once(&mut late)).is_some());
    subscriber.unsubscribe(3);
    assert_eq!(events(&subscriber, &confirmation(&channels::group(3))), []);
}

#[test]
fn a_core_that_listens_waits_for_nothing_when_it_subscribes_to_one_more() {
    let subscriber = subscriber();
    let _send_buffer = listen(&subscriber);
    let mut subscribing = Box::pin(subscriber.subscribe(4));
    assert!(block_on(poll_once(&mut subscribing)).is_none());
    assert_eq!(events(&subscriber, &confirmation(&channels::group(4))), []);
    assert!(block_on(poll_once(&mut subscribing)).is_some());
}
