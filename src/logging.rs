//! The program's own log: one line per message on standard error.
//!
//! Owns the format of a line, and that panics are lines of it. Never writes a message's control
//! characters as they are, so nothing a peer sends can end a line and begin a forged one; never
//! makes a thread wait for whoever reads the log (`writer`). Under systemd the journal adds the
//! time and takes the level as a number.

mod writer;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    borrow::Cow,
    fmt::{Display, Write as _},
    io::{self, Write},
    panic::{self, PanicHookInfo},
    thread,
    time::Duration,
};

use env_logger::{Target, fmt::Formatter};
use log::{Level, LevelFilter};

/// How long the end of the process may wait for whoever reads the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Starts logging at `level`, or as `RUST_LOG` says if it is set. Later calls change nothing.
pub fn init(level: LevelFilter) {
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(&filters),
        _ => builder.filter_level(level),
    };
    let journal = stderr_is_the_journal();
    builder.format(move |buffer: &mut Formatter, record| {
        let message = record.args().to_string();
        if journal {
            write_for_journal(buffer, record.level(), &message)
        } else {
            let time = buffer.timestamp_millis().to_string();
            write_line(buffer, &time, record.level(), &message)
        }
    });
    builder.target(Target::Pipe(Box::new(StandardError)));
    // A second call finds a logger in place, which is as good.
    if builder.try_init().is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

/// Lines lost since the start because nobody read standard error.
pub fn lines_dropped() -> u64 {
    writer::of_standard_error().map_or(0, writer::Writer::dropped)
}

/// Says the last words of the process on standard error, as they are, behind what was logged.
pub fn say_last(words: &impl Display) {
    let line = format!("{words}\n");
    // There is nobody left to tell if it cannot be written.
    let _ = StandardError.write_all(line.as_bytes());
}

/// Waits until what was logged is written, but only so long: whoever reads it may never do so.
pub fn flush() {
    if let Some(writer) = writer::of_standard_error() {
        writer.flush(LAST_LINES);
    }
}

/// Hands lines to the writer's thread; without one it writes them itself.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match writer::of_standard_error() {
            Some(writer) => {
                writer.put(lines);
                Ok(lines.len())
            }
            None => io::stderr().write(lines),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What panics is logged as everything else: the standard hook would write to standard error
/// itself, on the thread of a core.
fn log_panic(info: &PanicHookInfo) {
    let thread = thread::current();
    let place = info.location().map(ToString::to_string);
    log::error!(
        "thread {:?} panicked at {}: {}",
        thread.name().unwrap_or("unnamed"),
        place.as_deref().unwrap_or("an unknown place"),
        info.payload_as_str().unwrap_or("no message")
    );
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        for line in backtrace.to_string().lines() {
            log::error!("{line}");
        }
    }
    // It may be one that aborts the process.
    if let Some(writer) = writer::of_standard_error() {
        writer.flush_unless_stuck();
    }
}

/// Whether standard error goes to the journal: systemd names the stream's device and inode in
/// `JOURNAL_STREAM`, which a process may have inherited although its own standard error goes
/// elsewhere.
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

/// The text with each control character, and each character that some viewers take for a line's
/// end, written as an escape.
fn escape_controls(text: &str) -> Cow<'_, str> {
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
