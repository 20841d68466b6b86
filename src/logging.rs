//! The program's own log: one line per message on standard error.
//!
//! Owns the format of a line. Never writes a message's control characters as they are, so nothing a peer sends can
//! end a line and begin a forged one. Under systemd the journal adds the time and takes the level as a number.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use log::{Level, LevelFilter};

/// Starts logging at `level`, or as `RUST_LOG` says if it is set. Later calls change nothing.
pub fn init(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level),
    };
    let journal = stderr_is_the_journal();
    builder.format(move |buffer, record| {
        let message = record.args().to_string();
        if journal {
            write_for_journal(buffer, record.level(), &message)
        } else {
            let time = buffer.timestamp_millis().to_string();
            write_line(buffer, &time, record.level(), &message)
        }
    });
    // A second call finds a logger in place, which is as good.
    let _ = builder.try_init();
}

/// Whether standard error goes to the journal: systemd names the stream's device and inode in `JOURNAL_STREAM`, which a
/// process may have inherited although its own standard error goes elsewhere.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| names_stream(&stream, stat.st_dev, stat.st_ino))
}

fn names_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream
        .split_once(':')
        .is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

fn write_line(out: &mut impl Write, time: &str, level: Level, message: &str) -> io::Result<()> {
    writeln!(out, "{time} {level:<5} {}", escape_controls(message))
}

fn write_for_journal(out: &mut impl Write, level: Level, message: &str) -> io::Result<()> {
    // The numbers of sd-daemon(3).
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    writeln!(out, "<{priority}>{}", escape_controls(message))
}

/// The text with each control character, and each character that some viewers take for a line's end, written as an escape.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(breaks) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if breaks(c) {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "{}", c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(message: &str) -> String {
        let mut out = Vec::new();
        write_line(&mut out, "2026-01-02T03:04:05.678Z", Level::Warn, message).expect("written");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_line_has_time_level_and_message() {
        assert_eq!(line("hello"), "2026-01-02T03:04:05.678Z WARN  hello\n");
    }

    #[test]
    fn a_line_for_the_journal_has_its_priority_and_no_time() {
        let mut out = Vec::new();
        write_for_journal(&mut out, Level::Error, "disk\nfull").expect("written");
        assert_eq!(out, b"<3>disk\\nfull\n");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(names_stream("9:10", 9, 10));
        assert!(!names_stream("9:11", 9, 10));
        assert!(!names_stream("", 9, 10));
        assert!(!names_stream("9", 9, 10));
    }

    #[test]
    fn text_without_controls_is_itself() {
        assert!(matches!(
            escape_controls("wide \u{4f60} \\n"),
            Cow::Borrowed(_)
        ));
    }

    proptest! {
        #[test]
        fn no_message_makes_a_second_line_or_a_terminal_sequence(message: String) {
            let line = line(&message);
            let body = line.strip_suffix('\n').expect("a line ends");
            let breaks = body.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
            prop_assert!(!breaks, "{:?}", body);
        }
    }
}
