//! The files with secrets: the one that signs login tokens, made at the first start, and the one
//! that signs pushes, which is given. Each is hexadecimal, and readable by its owner alone.
//!
//! There is no built-in secret. A file that is there but cannot be used is an error, never a reason
//! to make another.
//!
//! As a credential of a systemd service it is root's and readable for the service's user by an
//! access control list. The mode shows the list's mask where the group's rights are otherwise, so
//! there the group may seem to read.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::base::{
    error::{ExitCode, StartupError},
    secret::{SECRET_BYTES_MIN, Secret},
};

/// What a secret is for, as far as words about its file depend on it.
struct Purpose {
    what: &'static str,
    key: &'static str,
    /// What to do about a file that holds no secret, or that others have read.
    renew: &'static str,
}

const TOKENS: Purpose = Purpose {
    what: "token secret",
    key: "auth.token_secret_file",
    renew: "delete it to have a new one made at the next start: all tokens become void",
};

const PUSHES: Purpose = Purpose {
    what: "push secret",
    key: "redis.push_secret_file",
    renew: "make another (openssl rand -hex 32) for all gateways and backends, and restart them",
};

const ISSUER: Purpose = Purpose {
    what: "issuer's secret",
    key: "auth.issuer",
    renew: "have the issuer make another one",
};

/// Names the directory of this service's credentials; systemd sets it.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Reads the secret, hexadecimal in the file; makes the file with a random one where there is none.
///
/// # Errors
/// A file that cannot be read or written, that others may read, or that holds no secret of at least
/// [`SECRET_BYTES_MIN`] bytes.
pub fn load_or_create(path: &Path) -> Result<Secret<Vec<u8>>, StartupError> {
    load_or_create_beside(path, credentials().as_deref())
}

/// Reads the secret that signs pushes. All processes of a cluster have the same, so none makes one.
///
/// # Errors
/// As [`load_or_create`], and a file that is not there.
pub fn load_push_secret(path: &Path) -> Result<Secret<Vec<u8>>, StartupError> {
    read(&PUSHES, path, credentials().as_deref())?.ok_or_else(|| {
        PUSHES.cannot_use(
            path,
            &"it is not there",
            "make it once (openssl rand -hex 32) and copy it, with mode 600, to every gateway and backend",
        )
    })
}

/// Reads the secret that an issuer of tokens shares: the bytes of the file, one line end aside.
///
/// # Errors
/// A file that cannot be read, or that others may read.
pub fn load_issuer_secret(path: &Path) -> Result<Secret<Vec<u8>>, StartupError> {
    let mut bytes = fs::read(path).map_err(|error| {
        ISSUER.cannot_use(path, &error, "make it readable for the user this runs as")
    })?;
    refuse_what_others_read(&ISSUER, path, credentials().as_deref())?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    if bytes.ends_with(b"\r") {
        bytes.pop();
    }
    Ok(Secret::new(bytes))
}

fn credentials() -> Option<PathBuf> {
    env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from)
}

/// Whether the secret that signs tokens is there, and good: what can be known of it without making
/// it.
///
/// # Errors
/// Those of [`load_or_create`], but for a directory that cannot be written.
pub fn token_secret_is_there(path: &Path) -> Result<bool, StartupError> {
    read(&TOKENS, path, credentials().as_deref()).map(|secret| secret.is_some())
}

fn load_or_create_beside(
    path: &Path,
    credentials: Option<&Path>,
) -> Result<Secret<Vec<u8>>, StartupError> {
    if let Some(secret) = read(&TOKENS, path, credentials)? {
        return Ok(secret);
    }
    match create(path) {
        Ok(secret) => Ok(Secret::new(secret)),
        // Another gateway that shares it was quicker: whole or not at all, so it can be read.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read(&TOKENS, path, credentials)?.ok_or_else(|| {
                TOKENS.cannot_use(
                    path,
                    &"it is a link to a file that is not there",
                    "make that file available, or remove the link to have a secret made here",
                )
            })
        }
        Err(error) => Err(TOKENS.cannot_use(
            path,
            &error,
            "make its directory writable, or set auth.token_secret_file",
        )),
    }
}

/// The secret in the file; `None`: there is no file.
fn read(
    purpose: &Purpose,
    path: &Path,
    credentials: Option<&Path>,
) -> Result<Option<Secret<Vec<u8>>>, StartupError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let remedy = format!(
                "make it readable for the user this runs as, or set {}",
                purpose.key
            );
            return Err(purpose.cannot_use(path, &error, &remedy));
        }
    };
    refuse_what_others_read(purpose, path, credentials)?;
    match decode(text.trim()) {
        Some(secret) => Ok(Some(Secret::new(secret))),
        None => Err(purpose.cannot_use(
            path,
            &format!(
                "it does not hold an even number of hexadecimal digits, at least {}, on one line",
                2 * SECRET_BYTES_MIN
            ),
            &format!(
                "write what `openssl rand -hex 32` prints into it, or {}",
                purpose.renew
            ),
        )),
    }
}

fn refuse_what_others_read(
    purpose: &Purpose,
    path: &Path,
    credentials: Option<&Path>,
) -> Result<(), StartupError> {
    let mode = fs::metadata(path)
        .map_err(|error| purpose.cannot_use(path, &error, ""))?
        .permissions()
        .mode();
    if mode & rights_of_others(path, credentials) == 0 {
        return Ok(());
    }
    let remedy = format!(
        "chmod 600 it; if others may have read it, {}",
        purpose.renew
    );
    Err(purpose.cannot_use(path, &"others may read or write it", &remedy))
}

impl Purpose {
    fn cannot_use(&self, path: &Path, cause: &dyn std::fmt::Display, remedy: &str) -> StartupError {
        let what = format!("cannot use the {} {}", self.what, path.display());
        StartupError::new(ExitCode::Preflight, what, cause, remedy)
    }
}

/// The bits of a mode that would let others at the secret.
fn rights_of_others(path: &Path, credentials: Option<&Path>) -> u32 {
    match path.parent() {
        Some(parent) if parent.is_absolute() && Some(parent) == credentials => 0o037,
        _ => 0o077,
    }
}

/// Makes the file whole or not at all: half of one, left behind by a crash, would keep the gateway
/// from starting. Of several gateways that start at once, one makes it.
fn create(path: &Path) -> io::Result<Vec<u8>> {
    let mut secret = vec![0; SECRET_BYTES_MIN];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    assert_eq!(
        decode(text.trim()).as_ref(),
        Some(&secret),
        "it is read back as it is"
    );
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft = tempfile::Builder::new()
        .prefix(".token.secret-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist_noclobber(path)?;
    fs::File::open(directory)?.sync_all()?;
    Ok(secret)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<Vec<u8>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let secret: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    (rest.is_empty() && secret.len() >= SECRET_BYTES_MIN).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_takes_the_secret_of_who_came_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        let first = create(&path).expect("made");
        let error = create(&path).expect_err("there is one");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(*load_or_create(&path).expect("read").expose(), first);
        assert_eq!(
            fs::read_dir(directory.path()).expect("a directory").count(),
            1
        );
    }

    #[test]
    fn a_link_to_nowhere_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &path).expect("a link");
        let error = load_or_create(&path).expect_err("no secret");
        assert!(error.cause.contains("a link"), "{error}");
        assert!(path.is_symlink());
    }

    #[test]
    fn the_secret_that_is_made_is_the_secret_that_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        let made = load_or_create(&path).expect("made");
        assert_eq!(made.expose().len(), SECRET_BYTES_MIN);
        assert_eq!(load_or_create(&path).expect("read").expose(), made.expose());
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        fs::write(directory.path().join(".token.secret-half"), "ab").expect("written");
        let made = load_or_create(&path).expect("made");
        assert_eq!(load_or_create(&path).expect("read").expose(), made.expose());
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        for bad in ["", "zz", "abc", &"ab".repeat(SECRET_BYTES_MIN - 1)] {
            fs::write(&path, bad).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            let error = load_or_create(&path).expect_err("no secret");
            assert_eq!(error.code, ExitCode::Preflight);
            assert_eq!(fs::read_to_string(&path).expect("still there"), bad);
        }
    }

    #[test]
    fn a_push_secret_is_never_made_here() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("push.secret");
        let error = load_push_secret(&path).expect_err("no file");
        assert!(error.remedy.contains("openssl rand -hex 32"), "{error}");
        assert!(!path.exists());
        fs::write(&path, format!("{}\n", "ab".repeat(SECRET_BYTES_MIN))).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = load_push_secret(&path).expect_err("readable for others");
        assert!(error.what.contains("push secret"), "{error}");
        assert!(!error.to_string().contains("abab"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let secret = load_push_secret(&path).expect("read");
        assert_eq!(*secret.expose(), [0xab; SECRET_BYTES_MIN]);
        fs::write(&path, "ab").expect("written");
        assert!(load_push_secret(&path).is_err(), "too short");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        load_or_create(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(load_or_create(&path).is_err());
    }

    #[test]
    fn a_credential_may_show_the_mask_of_its_access_list() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token.secret");
        let made = load_or_create(&path).expect("made");
        let elsewhere = directory.path().join("other");
        for (mode, credentials, is_accepted) in [
            (0o440, Some(directory.path()), true),
            (0o400, Some(directory.path()), true),
            (0o440, Some(elsewhere.as_path()), false),
            (0o440, Some(Path::new("")), false),
            (0o440, None, false),
            (0o460, Some(directory.path()), false),
            (0o444, Some(directory.path()), false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let read = load_or_create_beside(&path, credentials);
            assert_eq!(read.is_ok(), is_accepted, "{mode:o} {credentials:?}");
            if let Ok(read) = read {
                assert_eq!(read.expose(), made.expose());
            }
        }
    }
}
