//! The header of the PROXY protocol, versions 1 and 2: for whom a proxy passes a connection on.
//!
//! Sans-IO: takes the first bytes of a connection, as many as there are. Invariant: what it says of
//! some bytes it says of them whatever follows; and it wants no more than [`HEADER_MAX_BYTES`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// No header is longer. Version 1 has 107 bytes at most; what version 2 needs more is for notes
/// that proxies add, which nobody reads here.
pub const HEADER_MAX_BYTES: usize = 1024;
/// A line of version 1 with its end, as its specification has it.
const LINE_MAX_BYTES: usize = 107;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, then version and command, family, and two bytes of length.
const V2_HEAD_BYTES: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header.
    Incomplete,
    /// No header.
    Malformed,
    /// A header.
    Complete {
        /// Its length.
        length: usize,
        /// Whose connection it is; `None`: the proxy's own.
        client: Option<SocketAddr>,
    },
}

/// Reads a header from the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Header {
    if is_prefix_of(bytes, V1) || is_prefix_of(bytes, V2) {
        Header::Incomplete
    } else if bytes.starts_with(V1) {
        version_1(bytes)
    } else if bytes.starts_with(V2) {
        version_2(bytes)
    } else {
        Header::Malformed
    }
}

fn is_prefix_of(bytes: &[u8], whole: &[u8]) -> bool {
    bytes.len() < whole.len() && whole.starts_with(bytes)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.9 50123 6000\r\n`
fn version_1(bytes: &[u8]) -> Header {
    let window = &bytes[..bytes.len().min(LINE_MAX_BYTES)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LINE_MAX_BYTES {
            Header::Incomplete
        } else {
            Header::Malformed
        };
    };
    let length = end + 2;
    let Ok(line) = std::str::from_utf8(&bytes[V1.len()..end]) else {
        return Header::Malformed;
    };
    // Whatever follows this word is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Header::Complete {
            length,
            client: None,
        };
    }
    match client_of_line(line) {
        Some(client) => Header::Complete {
            length,
            client: Some(client),
        },
        None => Header::Malformed,
    }
}

fn client_of_line(line: &str) -> Option<SocketAddr> {
    let mut words = line.split(' ');
    let parse: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (client, _) = (parse(words.next()?)?, parse(words.next()?)?);
    let (port, _) = (port(words.next()?)?, port(words.next()?)?);
    words
        .next()
        .is_none()
        .then(|| SocketAddr::new(client, port))
}

/// Digits alone: the standard library would take a sign.
fn port(word: &str) -> Option<u16> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok())?
}

fn version_2(bytes: &[u8]) -> Header {
    // What is wrong is said as soon as it is seen.
    let Some(&version_and_command) = bytes.get(12) else {
        return Header::Incomplete;
    };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Header::Malformed,
    };
    let [Some(&family), Some(&high), Some(&low)] = [13, 14, 15].map(|at| bytes.get(at)) else {
        return Header::Incomplete;
    };
    let length = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let addresses_bytes = match family {
        // A proxy's own connection, as for its checks of health, has no client.
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        _ => return Header::Malformed,
    };
    if length > HEADER_MAX_BYTES || length < V2_HEAD_BYTES + addresses_bytes {
        return Header::Malformed;
    }
    let Some(addresses) = bytes.get(V2_HEAD_BYTES..length) else {
        return Header::Incomplete;
    };
    let client = match addresses_bytes {
        12 => client_of(addresses, 8, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        36 => client_of(addresses, 32, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    Header::Complete { length, client }
}

/// Both addresses come first, then both ports: of each the client's before the proxy's.
fn client_of<const BYTES: usize>(
    addresses: &[u8],
    ports: usize,
    address: impl Fn([u8; BYTES]) -> IpAddr,
) -> Option<SocketAddr> {
    let ip = addresses.first_chunk::<BYTES>()?;
    let port = addresses[ports..].first_chunk::<2>()?;
    Some(SocketAddr::new(address(*ip), u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short");
        let mut bytes = [V2, &[command, family], &length.to_be_bytes()].concat();
        bytes.extend_from_slice(body);
        bytes
    }

    fn named(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// Headers that are good, with whom they name.
    fn good() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0xcb, 0x17, 0x70];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().expect("one").octets());
        v6[32..34].copy_from_slice(&443_u16.to_be_bytes());
        let with_notes = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let line = |text: &str| text.as_bytes().to_vec();
        vec![
            (
                line("PROXY TCP4 192.0.2.1 10.0.0.1 50123 6000\r\n"),
                named("192.0.2.1:50123"),
            ),
            (
                line("PROXY TCP6 2001:db8::7 ::1 443 6000\r\n"),
                named("[2001:db8::7]:443"),
            ),
            (line("PROXY UNKNOWN\r\n"), None),
            (line("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None),
            (v2(0x21, 0x11, &v4), named("192.0.2.1:50123")),
            (v2(0x21, 0x11, &with_notes), named("192.0.2.1:50123")),
            (v2(0x21, 0x21, &v6), named("[2001:db8::7]:443")),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn a_header_names_the_client_wherever_it_is_split_and_whatever_follows() {
        for (header, client) in good() {
            for end in 0..header.len() {
                assert_eq!(read(&header[..end]), Header::Incomplete, "{header:?} {end}");
            }
            let length = header.len();
            let expected = Header::Complete { length, client };
            assert_eq!(read(&header), expected);
            for behind in [&b"\r\n"[..], b"login:a:b\n", b"\x16\x03\x01"] {
                assert_eq!(read(&[&header, behind].concat()), expected);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let lines = [
            "PING\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50123\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 50123 6000 7\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 50123 6000\r\n",
            "PROXY TCP4 2001:db8::7 ::1 443 6000\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1  2\r\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
            "PROXY \r\n",
            "proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        ];
        for line in lines {
            assert_eq!(read(line.as_bytes()), Header::Malformed, "{line:?}");
        }
        let too_long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(LINE_MAX_BYTES));
        assert_eq!(read(too_long.as_bytes()), Header::Malformed);
        for bytes in [
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x20, 0x00, &[0; HEADER_MAX_BYTES]),
        ] {
            assert_eq!(read(&bytes), Header::Malformed, "{bytes:?}");
        }
        // The length alone shows that it is too long.
        assert_eq!(
            read(&v2(0x21, 0x11, &[0; 2000])[..V2_HEAD_BYTES]),
            Header::Malformed
        );
    }
}
