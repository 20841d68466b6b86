//! The file in the data directory that keeps which number belongs to which name, so that a gateway
//! that was killed can log out those whom its User Service still counts as online.
//!
//! Owns the file and the one thread that writes it: one line for each name that is new, `NUMBER
//! NAME`, and all of it anew where most of its lines say nothing any more. Lines are not forced to
//! the disk: what was written outlives the process, and after a power cut the services begin anew,
//! too. What cannot be written is logged and costs nothing else. No secret is in it, but names are,
//! so only its owner reads it.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use crossbeam_channel::{Receiver, bounded};

use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::UserId,
    },
    flow::known_users::{KnownUsers, Note},
};

/// What the file is called, before the name of the gateway: several gateways may share a directory.
const FILE: &str = "known-users.";
/// More is not read; the file is written anew long before it is so long.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Names that wait to be written at most. What does not fit is written with the user's next login
/// after a start.
const QUEUE: usize = 4096;
/// Lines that may say nothing any more, beside as many as there are names.
const SPARE_LINES: usize = 1024;

/// Reads what the gateway of this name has learnt before, and starts the thread that writes what it
/// learns from now on.
///
/// # Errors
/// A file that cannot be read or written.
pub fn open(data_dir: &Path, gateway_id: &str) -> Result<(KnownUsers, Note), StartupError> {
    let path = data_dir.join(format!("{FILE}{gateway_id}"));
    let cannot_use = |error: io::Error| {
        let what = format!("cannot keep names of users in {}", path.display());
        let remedy = "make it writable for the user the gateway runs as, or delete it";
        StartupError::new(ExitCode::Preflight, what, error, remedy)
    };
    let mut journal = Journal::open(path.clone()).map_err(cannot_use)?;
    let known = journal.known.clone();
    let (sender, receiver) = bounded::<(String, UserId)>(QUEUE);
    thread::Builder::new()
        .name("known-users".to_owned())
        .spawn(move || journal.keep(&receiver))
        .map_err(cannot_use)?;
    let note: Note = Arc::new(move |name, user| {
        // A full queue costs a name, never a core its time.
        let _ = sender.try_send((name.to_owned(), user));
    });
    Ok((known, note))
}

struct Journal {
    path: PathBuf,
    file: File,
    known: KnownUsers,
    lines: usize,
    failing: bool,
}

impl Journal {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = open_file(&path)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        let mut journal = Self {
            path,
            file,
            known: KnownUsers::default(),
            lines: 0,
            failing: false,
        };
        // Whatever is no line of ours, such as one that a full disk cut short, is left out.
        for line in bytes.split(|byte| *byte == b'\n') {
            journal.lines += 1;
            if let Some((name, user)) = parse(line) {
                journal.known.learn(name, user);
            }
        }
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            journal.write_anew()?;
        }
        Ok(journal)
    }

    /// Writes what comes, until nobody can send any more.
    fn keep(&mut self, names: &Receiver<(String, UserId)>) {
        for (name, user) in names {
            let written = if self.known.learn(&name, user) {
                self.write(&name, user)
            } else {
                Ok(())
            };
            match written {
                Ok(()) => self.failing = false,
                Err(error) if !self.failing => {
                    self.failing = true;
                    log::warn!("cannot write {}: {error}", self.path.display());
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, name: &str, user: UserId) -> io::Result<()> {
        if self.failing || self.lines > 2 * self.known.len() + SPARE_LINES {
            // After a failure half a line may stand at the end.
            return self.write_anew();
        }
        self.lines += 1;
        assert!(
            self.lines <= 2 * self.known.len() + SPARE_LINES + 1,
            "a file with too many lines is written anew"
        );
        self.file.write_all(line(name, user).as_bytes())
    }

    /// Writes a file with all names and puts it in the place of the other one, whole or not at all.
    fn write_anew(&mut self) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new()
            .prefix(".known-users-")
            .tempfile_in(directory)?;
        let mut writer = BufWriter::new(draft.as_file());
        for (name, user) in self.known.iter() {
            writer.write_all(line(name, user).as_bytes())?;
        }
        writer.flush()?;
        drop(writer);
        draft.as_file().sync_all()?;
        draft.persist(&self.path).map_err(|error| error.error)?;
        self.file = open_file(&self.path)?;
        self.lines = self.known.len();
        debug_assert_eq!(
            self.known.iter().count(),
            self.lines,
            "a line for each name"
        );
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn line(name: &str, user: UserId) -> String {
    debug_assert!(
        user > 0 && !name.contains('\n'),
        "a line is read back as it is written"
    );
    format!("{user} {name}\n")
}

/// The name and the number of a line.
fn parse(line: &[u8]) -> Option<(&str, UserId)> {
    let (number, name) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    (!name.is_empty()).then_some((name, number))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn journal(path: &Path) -> Journal {
        Journal::open(path.to_owned()).expect("a file")
    }

    fn names(journal: &Journal) -> Vec<(String, UserId)> {
        let known = journal.known.iter();
        known.map(|(name, user)| (name.to_owned(), user)).collect()
    }

    #[test]
    fn what_was_learnt_is_known_after_the_next_start_and_is_nobody_elses_to_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("known-users.gw-1");
        let mut first = journal(&path);
        for (name, user) in [("alice", 1), ("a:b c", 2), ("alice", 3)] {
            assert!(first.known.learn(name, user));
            first.write(name, user).expect("written");
        }
        drop(first);
        let expected = [("alice".to_owned(), 3), ("a:b c".to_owned(), 2)];
        assert_eq!(names(&journal(&path)), expected);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn half_a_line_and_whatever_else_is_no_line_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("known-users.gw-1");
        fs::write(
            &path,
            b"1 alice\n\nbob\n-2 carol\n0 dave\n3 \n\xff\xff\n4 erin",
        )
        .expect("written");
        let mut again = journal(&path);
        let expected = [("alice".to_owned(), 1), ("erin".to_owned(), 4)];
        assert_eq!(names(&again), expected);
        again.known.learn("frank", 5);
        again.write("frank", 5).expect("written");
        assert_eq!(
            fs::read_to_string(&path).expect("text"),
            "1 alice\n4 erin\n5 frank\n"
        );
    }

    #[test]
    fn a_file_of_which_most_says_nothing_any_more_is_written_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("known-users.gw-1");
        let mut journal = journal(&path);
        for user in 1..=3 * SPARE_LINES as i64 {
            assert!(journal.known.learn("alice", user));
            journal.write("alice", user).expect("written");
            assert!(journal.lines <= SPARE_LINES + 3);
        }
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.lines().count() <= SPARE_LINES + 3);
        assert!(text.ends_with(&format!("{} alice\n", 3 * SPARE_LINES)));
        assert_eq!(
            fs::read_dir(directory.path()).expect("a directory").count(),
            1
        );
    }

    #[test]
    fn notes_are_written_by_the_thread_and_never_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let (known, note) = open(directory.path(), "gw-1").expect("a file");
        assert!(known.is_empty());
        note("alice", 7);
        let path = directory.path().join("known-users.gw-1");
        while fs::read_to_string(&path).expect("text") != "7 alice\n" {
            thread::yield_now();
        }
        let error = open(Path::new("/proc/nowhere"), "gw-1").err();
        assert_eq!(error.expect("no such place").code, ExitCode::Preflight);
    }
}
