//! Where Redis is and who to be there, found out anew for each attempt to connect: a name may have
//! moved, and a password may have been changed.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
};

use redis::ServerError;

use super::credentials::Credentials;
use crate::{config::settings::Redis, tls::client::Connector};

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 16;

/// What one attempt to connect starts from.
#[derive(Debug)]
pub struct Target {
    /// All that the name stands for, in the resolver's order; never empty.
    pub addresses: Vec<SocketAddr>,
    /// Who to be; `None`: nothing is sent.
    pub credentials: Option<Credentials>,
    /// What TLS begins with; `None`: there is none.
    pub tls: Option<Connector>,
}

/// What TLS to `redis` begins with, if there is some.
///
/// # Errors
/// Which file is of no use, and why.
pub fn connector(redis: &Redis) -> Result<Option<Connector>, String> {
    let tls = redis.tls.as_ref();
    tls.map(|settings| Connector::load(redis.host(), settings))
        .transpose()
}

impl Target {
    /// Asks the resolver and reads the password and the files of TLS. Waits for all of them, which
    /// may take long: not for the thread of a core.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn look_up(redis: &Redis) -> Result<Self, String> {
        let credentials = Credentials::read(redis).map_err(|error| error.to_string())?;
        let tls = connector(redis)?;
        let addresses: Vec<SocketAddr> = redis
            .address
            .to_socket_addrs()
            .map_err(|error| error.to_string())?
            .take(ADDRESSES_MAX)
            .collect();
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        assert!(addresses.len() <= ADDRESSES_MAX, "an attempt has an end");
        Ok(Self {
            addresses,
            credentials,
            tls,
        })
    }

    /// The same where there is nothing to wait for.
    pub fn at_hand(redis: &Redis) -> Option<Self> {
        let address = redis.address.parse().ok()?;
        let has_no_files = redis.password_file.is_none() && redis.tls.is_none();
        has_no_files.then(|| Self {
            addresses: vec![address],
            credentials: None,
            tls: None,
        })
    }
}

/// Why none of some addresses would do, in one line.
#[derive(Debug, Default)]
pub struct Failures(Vec<(SocketAddr, String)>);

impl Failures {
    /// `address` would not do.
    pub fn add(&mut self, address: SocketAddr, reason: impl fmt::Display) {
        self.0.push((address, reason.to_string()));
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.0.len() > 1;
        for (number, (address, reason)) in self.0.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            match several {
                true => write!(f, "{separator}{address}: {reason}")?,
                false => f.write_str(reason)?,
            }
        }
        Ok(())
    }
}

/// What Redis says in an error, in its own words: those are what its documents name.
pub fn refusal(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn redis(address: &str) -> Redis {
        Redis {
            address: address.to_owned(),
            tls: None,
            user: None,
            password_file: None,
            push_secret_file: None,
        }
    }

    #[test]
    fn an_address_without_a_password_is_at_hand_and_a_name_or_a_file_is_not() {
        let target = Target::at_hand(&redis("127.0.0.1:6379")).expect("at hand");
        assert_eq!(target.addresses, [SocketAddr::from(([127, 0, 0, 1], 6379))]);
        assert!(Target::at_hand(&redis("localhost:6379")).is_none());
        let with_password = Redis {
            password_file: Some("password".into()),
            ..redis("127.0.0.1:6379")
        };
        assert!(Target::at_hand(&with_password).is_none());
    }

    #[test]
    fn the_password_is_that_of_the_moment() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        let redis = Redis {
            password_file: Some(path.clone()),
            ..redis("localhost:6379")
        };
        assert!(Target::look_up(&redis).is_err_and(|error| error.contains("password")));
        for password in ["old", "new"] {
            fs::write(&path, password).expect("a file");
            let target = Target::look_up(&redis).expect("found");
            let credentials = target.credentials.expect("a password");
            assert_eq!(credentials.password.expose(), password);
            assert!(!target.addresses.is_empty());
        }
    }

    #[test]
    fn the_addresses_are_named_where_there_are_several() {
        let mut failures = Failures::default();
        failures.add(([127, 0, 0, 1], 1).into(), "refused");
        assert_eq!(failures.to_string(), "refused");
        failures.add(([127, 0, 0, 2], 1).into(), "timed out");
        assert_eq!(
            failures.to_string(),
            "127.0.0.1:1: refused; 127.0.0.2:1: timed out"
        );
    }
}
