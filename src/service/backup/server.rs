//! The side of the process that has the database alone: a thread that listens on the socket and has
//! the store leave the main file as it is while somebody copies it.
//!
//! One copier at a time, and none for longer than `LONGEST_HOLD`: meanwhile the log grows.
//! Everything said is a line:
//!
//! ```text
//!   copier: hold      here: held      (or why not)
//!   copier: done      here: whole     (or that the file was changed meanwhile)
//! ```

use std::{
    fs::{self, File, Permissions},
    io::{self, BufReader, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    thread::{self, Builder},
    time::Duration,
};

use super::{DONE, HELD, HOLD, WHOLE, is_socket, read_line, socket_in};
use crate::{base::accept_pause::AcceptPause, service::ServiceClient};

/// How long a copier may take for the first word.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to copy.
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// Listens in `data_dir`, which this process has for itself, for as long as the process lives.
/// Where that is impossible there are no backups while it runs, and a warning says so.
pub fn start(data_dir: &Path, services: ServiceClient) {
    let listening = listen(data_dir).and_then(|listener| {
        Builder::new()
            .name("backup".to_owned())
            .spawn(move || serve(&listener, &services))
    });
    if let Err(error) = listening {
        log::warn!("`im-gateway backup` will not work while this process runs: {error}");
    }
}

fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let directory = File::open(data_dir)?;
    let path = socket_in(&directory);
    // Whoever had the directory before is gone, or this process would not have it.
    if is_socket(&path) {
        fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn serve(listener: &UnixListener, services: &ServiceClient) {
    let mut accept_pause = AcceptPause::default();
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                accept_pause.accepted();
                if let Err(error) = attend(stream, services) {
                    log::warn!("a backup was given up: {error}");
                }
            }
            Err(error) => {
                if let Some(pause) = accept_pause.failed(&error) {
                    if pause.is_first {
                        log::warn!(
                            "backups cannot be asked for: {error}; trying again with pauses"
                        );
                    }
                    thread::sleep(Duration::from_millis(pause.ms));
                }
            }
        }
    }
}

fn attend(mut stream: UnixStream, services: &ServiceClient) -> io::Result<()> {
    stream.set_write_timeout(Some(FIRST_WORD_WITHIN))?;
    stream.set_read_timeout(Some(FIRST_WORD_WITHIN))?;
    let mut words = BufReader::new(stream.try_clone()?);
    if read_line(&mut words)? != HOLD {
        return say(&mut stream, "say hold");
    }
    let hold = match services.hold_file() {
        Ok(hold) => hold,
        Err(problem) => return say(&mut stream, &problem),
    };
    log::info!("the database is being copied");
    say(&mut stream, HELD)?;
    stream.set_read_timeout(Some(LONGEST_HOLD))?;
    let word = read_line(&mut words)?;
    let is_whole = hold.end();
    if word != DONE {
        return Err(io::Error::other("the copier went away"));
    }
    log::info!("the database was copied");
    say(
        &mut stream,
        if is_whole {
            WHOLE
        } else {
            "the file was changed"
        },
    )
}

fn say(stream: &mut UnixStream, word: &str) -> io::Result<()> {
    stream.write_all(format!("{word}\n").as_bytes())
}
