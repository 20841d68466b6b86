//! Cuts a byte stream into lines.
//!
//! Owns the terminator and the length cap. Knows nothing of what a line says, and keeps no state:
//! what it answers depends on the bytes alone, never on how they were split into packets.

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole line.
    Line {
        /// The line without its LF and without one CR before that. An empty one is to be ignored.
        text: &'a [u8],
        /// How many bytes of the buffer it took, terminator included.
        consumed: usize,
    },
    /// The beginning of a line; more bytes are needed.
    Incomplete,
    /// A line longer than allowed, whether its end has come yet or not.
    TooLong,
}

/// Cuts the first line off `buffer`. A line may be `max_line_bytes` long, its terminator counted.
///
/// Without a terminator within `max_line_bytes` no later byte could make the line short enough, so
/// a full buffer is [`Split::TooLong`] at once: a reader never has to hold more than
/// `max_line_bytes` of an unfinished line.
pub fn split_line(buffer: &[u8], max_line_bytes: usize) -> Split<'_> {
    let window = &buffer[..buffer.len().min(max_line_bytes)];
    match memchr::memchr(b'\n', window) {
        Some(end) => {
            let text = &window[..end];
            Split::Line {
                text: text.strip_suffix(b"\r").unwrap_or(text),
                consumed: end + 1,
            }
        }
        None if buffer.len() >= max_line_bytes => Split::TooLong,
        None => Split::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of `stream` arriving in pieces of the given sizes (cycled), and whether it ended
    /// by a line too long.
    fn lines_of(stream: &[u8], pieces: &[usize], max_line_bytes: usize) -> (Vec<Vec<u8>>, bool) {
        let (mut lines, mut buffer, mut rest) = (Vec::new(), Vec::new(), stream);
        for &piece in pieces.iter().cycle() {
            let (arrived, later) = rest.split_at(piece.min(rest.len()));
            buffer.extend_from_slice(arrived);
            rest = later;
            loop {
                match split_line(&buffer, max_line_bytes) {
                    Split::Line { text, consumed } => {
                        lines.push(text.to_vec());
                        buffer.drain(..consumed);
                    }
                    Split::Incomplete => break,
                    Split::TooLong => return (lines, true),
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        (lines, false)
    }

    #[test]
    fn the_terminator_is_lf_and_one_cr_before_it_is_dropped() {
        let line = |text, consumed| Split::Line { text, consumed };
        assert_eq!(split_line(b"ping\nmore", 64), line(b"ping", 5));
        assert_eq!(split_line(b"ping\r\n", 64), line(b"ping", 6));
        assert_eq!(split_line(b"ping\r\r\n", 64), line(b"ping\r", 7));
        assert_eq!(split_line(b"\n", 64), line(b"", 1));
        assert_eq!(split_line(b"\r\n", 64), line(b"", 2));
        assert_eq!(split_line(b"a\rb\n", 64), line(b"a\rb", 4));
        assert_eq!(split_line(b"ping", 64), Split::Incomplete);
        assert_eq!(split_line(b"", 64), Split::Incomplete);
    }

    #[test]
    fn the_cap_counts_the_terminator() {
        assert!(matches!(split_line(b"1234567\n", 8), Split::Line { .. }));
        assert_eq!(split_line(b"12345678\n", 8), Split::TooLong);
        assert_eq!(split_line(b"1234567", 8), Split::Incomplete);
        assert_eq!(split_line(b"12345678", 8), Split::TooLong);
        assert!(matches!(split_line(b"123456\r\n", 8), Split::Line { .. }));
        assert_eq!(split_line(b"1234567\r\n", 8), Split::TooLong);
    }

    #[test]
    fn a_megabyte_without_a_line_is_too_long_whatever_follows() {
        let mut flood = vec![b'a'; 1 << 20];
        assert_eq!(split_line(&flood, 8192), Split::TooLong);
        flood.push(b'\n');
        assert_eq!(split_line(&flood, 8192), Split::TooLong);
    }

    proptest! {
        #[test]
        fn any_split_of_any_stream_gives_the_same_lines(
            stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            pieces in prop::collection::vec(1usize..20, 1..20),
            max_line_bytes in 1usize..40,
        ) {
            let whole = lines_of(&stream, &[stream.len().max(1)], max_line_bytes);
            prop_assert_eq!(&whole, &lines_of(&stream, &pieces, max_line_bytes));
            prop_assert_eq!(&whole, &lines_of(&stream, &[1], max_line_bytes));
        }

        #[test]
        fn no_line_exceeds_the_cap(
            stream in prop::collection::vec(any::<u8>(), 0..200), max_line_bytes in 1usize..40,
        ) {
            if let Split::Line { text, consumed } = split_line(&stream, max_line_bytes) {
                prop_assert!(consumed <= max_line_bytes);
                prop_assert!(text.len() < consumed);
                prop_assert!(!text.contains(&b'\n'));
            }
        }
    }
}
