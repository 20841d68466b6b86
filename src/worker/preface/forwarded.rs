//! For whom a proxy of HTTP passes a request on: `X-Forwarded-For`.
//!
//! Sans-IO: takes the first bytes of a connection, as many as there are. Anybody can write that
//! header, and proxies append to it: only what trusted ones appended counts, which is all from the
//! right up to the first address that is none of theirs.

use std::net::{IpAddr, SocketAddr};

use crate::{limits::Exempt, protocol::http::head::read_head};

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The head has not come whole.
    Incomplete,
    /// Whose request it is; `None`: the proxy's own, or nobody can say.
    For(Option<IpAddr>),
}

/// Reads it, where `trusted` are the proxies that are believed.
pub fn read(bytes: &[u8], trusted: &Exempt) -> Forwarded {
    match read_head(bytes) {
        Ok(None) => Forwarded::Incomplete,
        Ok(Some((head, _))) => {
            let named: Vec<&str> = head.list("x-forwarded-for").collect();
            Forwarded::For(client(&named, trusted))
        }
        // It is answered, whoever it is from.
        Err(_) => Forwarded::For(None),
    }
}

fn client(named: &[&str], trusted: &Exempt) -> Option<IpAddr> {
    for text in named.iter().rev() {
        // Beyond what is no address nobody vouches for anything.
        let address = address(text)?.to_canonical();
        if !trusted.contains(address) {
            return Some(address);
        }
    }
    None
}

/// An address, which some proxies write with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(headers: &str) -> Forwarded {
        let trusted = Exempt::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        let head = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        for length in 0..head.len() {
            assert_eq!(
                read(&head.as_bytes()[..length], &trusted),
                Forwarded::Incomplete
            );
        }
        read(head.as_bytes(), &trusted)
    }

    #[test]
    fn the_right_most_address_that_is_no_trusted_proxy_counts() {
        for (headers, client) in [
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            (
                "x-forwarded-for: 1.1.1.1, 192.0.2.1, 10.0.0.7\r\n",
                "192.0.2.1",
            ),
            (
                "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 192.0.2.1\r\n",
                "192.0.2.1",
            ),
            ("X-Forwarded-For: nonsense, 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 192.0.2.1:5000\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
            (
                "X-Forwarded-For: [2001:db8::1]:5000, ::ffff:10.1.1.1\r\n",
                "2001:db8::1",
            ),
        ] {
            let expected = Forwarded::For(client.parse().ok());
            assert_eq!(forwarded(headers), expected, "{headers}");
        }
    }

    #[test]
    fn where_nobody_can_say_it_is_the_proxys_own() {
        for headers in [
            "",
            "X-Forwarded-For: 10.0.0.7, 10.0.0.8\r\n",
            "X-Forwarded-For: 192.0.2.1, unknown\r\n",
            "X-Forwarded-For: 192.0.2.1, 10.0.0.8:99999\r\n",
            "X-Forwarded-For: 192.0.2.1, ,\r\nX-Forwarded-For: -\r\n",
        ] {
            assert_eq!(forwarded(headers), Forwarded::For(None), "{headers}");
        }
    }
}
