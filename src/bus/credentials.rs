//! Who to be on Redis.

use std::{fs, path::Path};

use crate::{
    config::settings::Redis,
    error::{ExitCode, StartupError},
    protocol::secret::Secret,
};

/// A user of Redis's access control, with the password.
#[derive(Debug)]
pub struct Credentials {
    /// The user; `default` where none is configured.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
}

impl Credentials {
    /// Reads the password of `redis` from its file; `None`: none is to be sent.
    ///
    /// # Errors
    /// A file that cannot be read, or that has no password on its first line.
    pub fn of(redis: &Redis) -> Result<Option<Self>, StartupError> {
        let Some(path) = &redis.password_file else {
            return Ok(None);
        };
        Ok(Some(Self {
            user: redis.user.clone().unwrap_or_else(|| "default".to_owned()),
            password: Secret::new(first_line(path)?),
        }))
    }
}

fn first_line(path: &Path) -> Result<String, StartupError> {
    let explain = |cause: &dyn std::fmt::Display| {
        StartupError::new(
            ExitCode::Preflight,
            format!("cannot use Redis's password in {}", path.display()),
            cause,
            "put it on the file's first line, readable for this user alone",
        )
    };
    let text = fs::read_to_string(path).map_err(|error| explain(&error))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(explain(&"its first line is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(path: &Path) -> Redis {
        Redis {
            address: "127.0.0.1:6379".to_owned(),
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
        let credentials = Credentials::of(&redis(&path)).expect("read").expect("some");
        assert_eq!(credentials.password.expose(), "open sesame");
        assert_eq!(credentials.user, "default");
        assert!(!format!("{credentials:?}").contains("sesame"));
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        assert!(Credentials::of(&redis(&path)).is_err());
        fs::write(&path, "\n").expect("a file");
        assert!(Credentials::of(&redis(&path)).is_err());
    }
}
