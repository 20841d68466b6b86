//! Who to be on Redis.

use std::{fs, io, path::PathBuf};

use crate::{
    base::{
        error::{ExitCode, StartupError},
        secret::Secret,
    },
    config::settings::Redis,
};

/// A user of Redis's access control, with the password.
#[derive(Debug)]
pub struct Credentials {
    /// The user; `default` where none is configured.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read Redis's password in {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is none in the file.
    #[error("the first line of {}, Redis's password, is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl From<CredentialsError> for StartupError {
    fn from(error: CredentialsError) -> Self {
        let remedy = "put it on the file's first line, readable for this user alone";
        Self::new(ExitCode::Preflight, "cannot log in to Redis", error, remedy)
    }
}

impl Credentials {
    /// Reads the password of `redis` from its file; `None`: none is to be sent.
    ///
    /// # Errors
    /// A file that cannot be read, or that has no password on its first line.
    pub fn read(redis: &Redis) -> Result<Option<Self>, CredentialsError> {
        let Some(path) = redis.password_file.clone() else {
            return Ok(None);
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return Err(CredentialsError::Unreadable { path, error }),
        };
        match text.lines().next() {
            Some(password) if !password.is_empty() => Ok(Some(Self {
                user: redis.user.clone().unwrap_or_else(|| "default".to_owned()),
                password: Secret::new(password.to_owned()),
            })),
            _ => Err(CredentialsError::Empty { path }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn redis(path: &Path) -> Redis {
        Redis {
            address: "127.0.0.1:6379".to_owned(),
            tls: None,
            user: None,
            password_file: Some(path.to_owned()),
            push_secret_file: None,
        }
    }

    #[test]
    fn the_password_is_the_first_line_and_is_never_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        fs::write(&path, "open sesame\nsecond line\n").expect("a file");
        let credentials = Credentials::read(&redis(&path))
            .expect("read")
            .expect("some");
        assert_eq!(credentials.password.expose(), "open sesame");
        assert_eq!(credentials.user, "default");
        assert!(!format!("{credentials:?}").contains("sesame"));
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        assert!(Credentials::read(&redis(&path)).is_err());
        fs::write(&path, "\n").expect("a file");
        assert!(Credentials::read(&redis(&path)).is_err());
    }
}
