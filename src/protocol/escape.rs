//! Text inside a line: how line breaks travel, and what keeps a text from being anything but text.
//!
//! Owns the three escapes (`\n`, `\r`, `\\`) and the four ways any text reaches the wire:
//! - [`escape_into`]: a message's text. Comes back unchanged by [`unescape`], but for control
//!   characters.
//! - `plain_into`: a name or words at the end of a line, which have no escapes. Control characters
//!   are replaced.
//! - `word_into`: a value that other fields may follow. White space is replaced too.
//! - `item_into`: part of a list. `,` and `:` are replaced too.
//!
//! Invariant: none of them ever writes a control character other than TAB, whatever a client or a
//! backend put into the text. Every other module writes text through one of them.

use std::borrow::Cow;

/// Stands on the wire for what may not travel: U+FFFD in UTF-8.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// Writes a message's text: LF as `\n`, CR as `\r`, and a backslash as `\\` where it would
/// otherwise read as an escape.
///
/// Other control characters but TAB, which no client can send but a backend might, become U+FFFD.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    if is_plain(text) && memchr::memchr(b'\\', text.as_bytes()).is_none() {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\\' if matches!(characters.peek(), Some('n' | 'r' | '\\' | '\n' | '\r')) => {
                out.extend_from_slice(b"\\\\");
            }
            other => push(other, out),
        }
    }
}

/// What a text on the wire says: the reverse of [`escape_into`]. A backslash that begins no escape
/// is itself.
///
/// Allocates only if there is an escape.
pub fn unescape(text: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', text.as_bytes()) else {
        return Cow::Borrowed(text);
    };
    let (plain, rest) = text.split_at(first);
    let mut decoded = String::with_capacity(text.len());
    decoded.push_str(plain);
    let mut characters = rest.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = match (character, characters.peek()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('r')) => Some('\r'),
            ('\\', Some('\\')) => Some('\\'),
            _ => None,
        };
        if escaped.is_some() {
            characters.next();
        }
        decoded.push(escaped.unwrap_or(character));
    }
    Cow::Owned(decoded)
}

/// Writes words that end a line and know no escapes; control characters but TAB become U+FFFD.
pub(super) fn plain_into(text: &str, out: &mut Vec<u8>) {
    if is_plain(text) {
        out.extend_from_slice(text.as_bytes());
    } else {
        text.chars().for_each(|character| push(character, out));
    }
}

/// Writes a value that other fields may follow; white space too becomes U+FFFD.
pub(super) fn word_into(text: &str, out: &mut Vec<u8>) {
    replacing(char::is_whitespace, text, out);
}

/// Writes a value that others follow in a list such as `42:alice,57:alina`; `,` and `:` too become
/// U+FFFD.
pub(super) fn item_into(text: &str, out: &mut Vec<u8>) {
    replacing(
        |character| character.is_whitespace() || matches!(character, ',' | ':'),
        text,
        out,
    );
}

fn replacing(ends_it: impl Fn(char) -> bool, text: &str, out: &mut Vec<u8>) {
    for character in text.chars() {
        if ends_it(character) {
            out.extend_from_slice(REPLACEMENT);
        } else {
            push(character, out);
        }
    }
}

/// Whether `text` holds no control character but TAB: what a line of the protocol may hold.
pub(super) fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    // Looks at every byte instead of stopping at the first: without a way out the compiler makes
    // vector code of it.
    let ascii_control = bytes.iter().fold(0, |found, byte| {
        found | u8::from(((*byte < 0x20) & (*byte != b'\t')) | (*byte == 0x7f))
    });
    // The controls U+0080 to U+009F are 0xC2 and a byte below 0xA0; 0xC2 is never anything but the
    // first of two bytes.
    let mut leads = memchr::memchr_iter(0xC2, bytes);
    ascii_control == 0 && !leads.any(|lead| bytes.get(lead + 1).is_some_and(|byte| *byte < 0xA0))
}

fn is_forbidden(character: char) -> bool {
    character.is_control() && character != '\t'
}

fn push(character: char, out: &mut Vec<u8>) {
    if is_forbidden(character) {
        out.extend_from_slice(REPLACEMENT);
    } else {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        escape_into(text, &mut out);
        String::from_utf8(out).expect("text stays text")
    }

    #[test]
    fn line_breaks_travel_as_escapes() {
        assert_eq!(escaped("a\nb\r\nc"), r"a\nb\r\nc");
        assert_eq!(unescape(r"a\nb\r\nc"), "a\nb\r\nc");
    }

    #[test]
    fn a_backslash_is_doubled_only_where_it_would_read_as_an_escape() {
        for (text, wire) in [
            (r"C:\dir", r"C:\dir"),
            (r"C:\new", r"C:\\new"),
            (r"\", r"\"),
            (r"\\", r"\\\"),
            (r"\\x", r"\\\x"),
            (r"\r", r"\\r"),
            ("\\\n", r"\\\n"),
            ("\\\r", r"\\\r"),
            (r"\t", r"\t"),
        ] {
            assert_eq!(escaped(text), wire);
            assert_eq!(unescape(wire), text);
        }
    }

    #[test]
    fn text_without_backslash_is_borrowed() {
        assert!(matches!(unescape("see http://x"), Cow::Borrowed(_)));
        assert!(matches!(unescape(r"a\nb"), Cow::Owned(_)));
    }

    #[test]
    fn control_characters_of_backends_are_replaced() {
        assert_eq!(
            escaped("a\0b\x1b[1mc\x7f\u{85}\td"),
            "a\u{FFFD}b\u{FFFD}[1mc\u{FFFD}\u{FFFD}\td"
        );
        let mut out = Vec::new();
        plain_into("al\nice bob", &mut out);
        word_into("|a b:c,d\u{3000}e\t", &mut out);
        item_into("|a b:c,d", &mut out);
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "al\u{FFFD}ice bob|a\u{FFFD}b:c,d\u{FFFD}e\u{FFFD}|a\u{FFFD}b\u{FFFD}c\u{FFFD}d"
        );
    }

    /// Texts dense in what matters here.
    fn text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            4 => prop::sample::select(vec!['\\', 'n', 'r', '\n', '\r', '\t', 'x', ' ', '\u{7f}', '\u{9f}', '\u{a0}', 'é']),
            1 => any::<char>(),
        ];
        prop::collection::vec(character, 0..40)
            .prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_text(text in text()) {
            let expected: String =
                text.chars()
                    .map(|c| if is_forbidden(c) && !"\n\r".contains(c) { '\u{FFFD}' } else { c })
                    .collect();
            let wire = escaped(&text);
            prop_assert!(is_plain(&wire));
            prop_assert_eq!(unescape(&wire), expected);
        }

        #[test]
        fn encoding_what_was_decoded_means_the_same(
            wire in text().prop_filter("a line", |text| is_plain(text)),
        ) {
            let text = unescape(&wire);
            let again = escaped(&text);
            prop_assert_eq!(unescape(&again), text);
        }

        #[test]
        fn plain_is_what_holds_no_control_character(text in text()) {
            prop_assert_eq!(is_plain(&text), !text.chars().any(is_forbidden));
        }
    }
}
