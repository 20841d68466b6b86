//! `im-gateway backup FILE`: a consistent copy of the database, while it is used or not.
//!
//! Owns the copying, and what is said over the socket `backup.sock` in the data directory (lines,
//! see [`server`]).
//!
//! Backends that share a database, and nobody at all, leave SQLite's locks to whoever comes: there
//! SQLite's own online backup copies from one moment's view. Who has the database alone keeps
//! everybody out. It is asked over the socket to leave the main file as it is for a while: it
//! copies the log into it, goes on writing to the log alone, and the file is copied byte by byte.
//! In both cases nobody who stores a message waits for the copy.
//!
//! Invariant: what stands under the name that was asked for is a whole copy. It is written under
//! another name, to disk, and renamed.

pub mod server;

use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::NamedTempFile;

use crate::{
    base::error::{ExitCode, StartupError},
    machine::data_dir,
    service,
};

/// The socket in the data directory.
const SOCKET: &str = "backup.sock";

/// What the copier says first.
const HOLD: &str = "hold";
/// The main file stays as it is from now on.
const HELD: &str = "held";
/// What the copier says when it has all of it.
const DONE: &str = "done";
/// It stayed as it was until now.
const WHOLE: &str = "whole";

/// The longest line of the two.
const LINE_BYTES: u64 = 256;

/// How long the other side may take for an answer, but for the copying itself. Emptying the log may
/// take some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Copies the database in `data_dir` to `target`; says how many bytes that are.
///
/// # Errors
/// A target that exists or cannot be written, no database, one that cannot be read.
pub fn run(data_dir: &Path, target: &Path) -> Result<u64, StartupError> {
    let database = service::database_file(data_dir);
    if !database.exists() {
        return Err(failed(
            target,
            format!("there is no database in {}", data_dir.display()),
            "name the configuration of the process that has it (-c); in a cluster, that is a backend's",
        ));
    }
    if target.exists() {
        let remedy = "choose another name, or move that file away";
        return Err(failed(target, "there is a file of this name", remedy));
    }
    let draft = draft_beside(target)?;
    match data_dir::lock_shared(data_dir) {
        Ok(_shared) => service::copy_database(data_dir, draft.path())
            .map_err(|error| failed(target, error, ""))?,
        Err(held) => copy_held(data_dir, &database, &draft).map_err(|error| match error {
            // Nobody listens there.
            Error::Connect(error) => failed(
                target,
                format!("{}, and cannot be asked: {error}", held.cause),
                "stop it, and copy again; versions before this one had no backup",
            ),
            error => failed(target, error, "try again"),
        })?,
    }
    keep(draft, target).map_err(|error| {
        let remedy = "make room there, and the directory writable for this user";
        failed(target, error, remedy)
    })
}

fn failed(target: &Path, cause: impl std::fmt::Display, remedy: &str) -> StartupError {
    let what = format!("cannot make the backup {}", target.display());
    StartupError::new(ExitCode::Runtime, what, cause, remedy)
}

fn directory_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// An empty file where `target` will be, for its owner alone: it gets messages and hashes of
/// passwords.
fn draft_beside(target: &Path) -> Result<NamedTempFile, StartupError> {
    tempfile::Builder::new()
        .prefix(".im-gateway-backup-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory_of(target))
        .map_err(|error| {
            let remedy = "choose a directory that is there and that this user may write to";
            failed(target, error, remedy)
        })
}

/// Gives the whole copy its name.
fn keep(draft: NamedTempFile, target: &Path) -> io::Result<u64> {
    // By its name: SQLite may have written through another descriptor, but to the same file.
    draft.as_file().sync_all()?;
    let bytes = draft.as_file().metadata()?.len();
    draft
        .persist_noclobber(target)
        .map_err(|error| error.error)?;
    File::open(directory_of(target))?.sync_all()?;
    Ok(bytes)
}

/// Why a database that one process has alone could not be copied.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the process that has the database says {0:?}")]
    Refused(String),
}

/// Copies the main file while its holder leaves it as it is.
fn copy_held(data_dir: &Path, database: &Path, draft: &NamedTempFile) -> Result<(), Error> {
    let mut stream = connect(data_dir).map_err(Error::Connect)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    expect(&mut stream, &mut answers, HOLD, HELD)?;
    io::copy(&mut File::open(database)?, &mut draft.as_file())?;
    expect(&mut stream, &mut answers, DONE, WHOLE)
}

fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let directory = File::open(data_dir)?;
    UnixStream::connect(socket_in(&directory))
}

/// The socket by a path that fits into an address of 108 bytes, however long that of the directory
/// is.
fn socket_in(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn expect(
    stream: &mut UnixStream,
    answers: &mut impl BufRead,
    says: &str,
    wanted: &str,
) -> Result<(), Error> {
    stream.write_all(format!("{says}\n").as_bytes())?;
    let answer = read_line(answers)?;
    if answer == wanted {
        Ok(())
    } else {
        Err(Error::Refused(answer))
    }
}

/// The next line, without its end; empty at the end of the stream.
fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(from, LINE_BYTES).read_line(&mut line)?;
    line.truncate(line.trim_end().len());
    Ok(line)
}

/// Whether `path` is a socket, as one that a process left behind which was killed.
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}
