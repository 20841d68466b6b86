//! That pushes read exactly as the contract says, and that no text can pass for anything but text.

use super::*;
use crate::protocol::escape::unescape;
use proptest::prelude::*;

fn line(push: &Push<'_>) -> String {
    let mut out = Vec::new();
    push.write(&mut out);
    String::from_utf8(out).expect("a push is text")
}

/// That pushes read so.
fn assert_forms<const N: usize>(forms: [(Push, &str); N]) {
    for (push, form) in forms {
        assert_eq!(line(&push), format!("{form}\n"));
    }
}

#[test]
fn messages_have_the_form_of_the_contract() {
    let direct = |seq, to, duplicate| Push::Message {
        id: 9,
        seq,
        from: 1,
        to,
        ts_ms: 1000,
        duplicate,
        text: "hi you",
    };
    let group = |seq, duplicate| Push::GroupMessage {
        id: 9,
        group: 7,
        seq,
        from: 1,
        ts_ms: 1000,
        duplicate,
        text: "hi",
    };
    assert_forms([
        (
            direct(Some(3), None, false),
            "MSG id=9 seq=3 from=1 ts=1000 text=hi you",
        ),
        (
            direct(Some(3), None, true),
            "MSG id=9 seq=3 from=1 ts=1000 dup=1 text=hi you",
        ),
        (
            direct(None, None, false),
            "MSG id=9 from=1 ts=1000 text=hi you",
        ),
        (
            direct(None, Some(2), false),
            "MSG id=9 from=1 to=2 ts=1000 text=hi you",
        ),
        (
            group(Some(3), false),
            "GMSG id=9 group=7 seq=3 from=1 ts=1000 text=hi",
        ),
        (
            group(Some(3), true),
            "GMSG id=9 group=7 seq=3 from=1 ts=1000 dup=1 text=hi",
        ),
        (
            group(None, false),
            "GMSG id=9 group=7 from=1 ts=1000 text=hi",
        ),
    ]);
}

#[test]
fn notices_and_kicks_have_the_form_of_the_contract() {
    assert_forms([
        (
            Push::Notice {
                kind: "reconnect",
                text: "back soon",
            },
            "NOTICE kind=reconnect text=back soon",
        ),
        (
            Push::Friend {
                online: true,
                uid: 2,
                name: "bob",
            },
            "NOTICE kind=friend_online uid=2 name=bob",
        ),
        (
            Push::Friend {
                online: false,
                uid: 2,
                name: "bob\nKICK reason=admin",
            },
            "NOTICE kind=friend_offline uid=2 name=bob\u{fffd}KICK reason=admin",
        ),
        (Push::Kick { reason: "replaced" }, "KICK reason=replaced"),
    ]);
}

#[test]
fn a_push_inside_a_text_stays_text() {
    let text = "hi\nMSG id=1 seq=1 from=1 ts=1 text=forged\r\nKICK reason=admin";
    let push = Push::Message {
        id: 9,
        seq: None,
        from: 1,
        to: None,
        ts_ms: 5,
        duplicate: false,
        text,
    };
    assert_eq!(
        line(&push),
        "MSG id=9 from=1 ts=5 text=hi\\nMSG id=1 seq=1 from=1 ts=1 text=forged\\r\\nKICK reason=admin\n"
    );
}

/// Reads a push as a client would that knows only the contract's section on pushes.
fn read(line: &str) -> (String, Vec<(String, String)>, Option<String>) {
    let (head, text) = match line.split_once(" text=") {
        Some((head, text)) => (head, Some(unescape(text).into_owned())),
        None => (line, None),
    };
    let mut words = head.split(' ');
    let name = words.next().unwrap_or_default().to_owned();
    let fields = words
        .map(|word| word.split_once('=').expect("key=value"))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    (name, fields, text)
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            "\n",
            "\r",
            "\\",
            "n",
            " text=",
            "MSG id=1 from=2",
            " dup=1",
            "KICK reason=admin",
            "\0"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_receiver_reads_exactly_the_fields_written(
        id in any::<i64>(), group in prop::option::of(any::<i64>()),
        seq in prop::option::of(any::<u64>()),
        from in any::<i64>(), to in prop::option::of(any::<i64>()),
        ts_ms in any::<i64>(), duplicate in any::<bool>(),
        text in text(),
    ) {
        let text = text.as_str();
        let push = match group {
            Some(group) => Push::GroupMessage { id, group, seq, from, ts_ms, duplicate, text },
            None => Push::Message { id, seq, from, to, ts_ms, duplicate, text },
        };
        let mut expected = vec![("id", id.to_string())];
        expected.extend(group.map(|group| ("group", group.to_string())));
        expected.extend(seq.map(|seq| ("seq", seq.to_string())));
        expected.push(("from", from.to_string()));
        expected.extend(to.filter(|_| group.is_none()).map(|to| ("to", to.to_string())));
        expected.push(("ts", ts_ms.to_string()));
        expected.extend(duplicate.then(|| ("dup", "1".to_owned())));
        let expected = expected.into_iter().map(|(key, value)| (key.to_owned(), value));
        let expected: Vec<_> = expected.collect();
        let line = line(&push);
        let body = line.strip_suffix('\n').expect("a line ends by LF");
        prop_assert!(!body.contains(|c: char| c.is_control() && c != '\t'));
        let (name, fields, read_text) = read(body);
        prop_assert_eq!(name, if group.is_some() { "GMSG" } else { "MSG" });
        prop_assert_eq!(fields, expected);
        let replaced = |c: char| if c.is_control() && !"\n\r\t".contains(c) { '\u{FFFD}' } else { c };
        prop_assert_eq!(read_text, Some(text.chars().map(replaced).collect::<String>()));
    }

    #[test]
    fn the_words_of_notices_and_kicks_stay_words(word in text(), text in text()) {
        let notice = line(&Push::Notice { kind: &word, text: &text });
        let (name, fields, _) = read(notice.trim_end_matches('\n'));
        prop_assert_eq!((name.as_str(), fields.len()), ("NOTICE", 1));
        let kick = line(&Push::Kick { reason: &word });
        prop_assert_eq!(kick.matches(char::is_whitespace).count(), 2, "one space, one LF: {:?}", kick);
    }
}
