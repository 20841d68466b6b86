//! The head of a request.
//!
//! Invariants: any split of a byte stream gives the same head; a head is at most
//! `HEAD_BYTES_MAX` long; what could be read in two ways (line ends without CR, folded lines, two
//! lengths, a length beside a coding) is no head.

use super::response::Status;

/// The longest head, in bytes.
pub(in crate::protocol) const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// What a head may have at least before a body of the greatest length.
const HEAD_BEFORE_BODY: usize = 2 * 1024;

/// A request's head and body, and the length of both in bytes.
pub type WholeRequest<'a> = (Head<'a>, &'a [u8], usize);

/// How long a request may be whose body has `body_bytes_max` at most.
pub(in crate::protocol) fn request_bytes_max(body_bytes_max: usize) -> usize {
    HEAD_BYTES_MAX.max(body_bytes_max + HEAD_BEFORE_BODY)
}

/// Takes a request off the front of `bytes`: its head, its body, and the length of both; `None`:
/// more bytes are needed.
///
/// # Errors
/// What no server should read further.
pub fn read_request(
    bytes: &[u8],
    body_bytes_max: usize,
) -> Result<Option<WholeRequest<'_>>, Status> {
    let Some((head, length)) = read_head(bytes)? else {
        return Ok(None);
    };
    if head.body_bytes > body_bytes_max {
        return Err(Status::BodyTooLong);
    }
    let end = length + head.body_bytes;
    if end > request_bytes_max(body_bytes_max) {
        return Err(Status::HeadTooLong);
    }
    let body = bytes.get(length..end);
    Ok(body.map(|body| (head, body, end)))
}

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path, as it was sent.
    pub path: &'a str,
    /// What follows `?`, as it was sent.
    pub query: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    /// The length of the body, in bytes.
    pub(super) body_bytes: usize,
}

/// Takes a head off the front of `bytes`, with its length; `None`: more bytes are needed.
///
/// # Errors
/// What no server should read further.
pub fn read_head(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, Status> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(window, b"\r\n\r\n") else {
        return match window.len() {
            HEAD_BYTES_MAX => Err(Status::HeadTooLong),
            _ if may_be_head(window) => Ok(None),
            _ => Err(Status::BadRequest),
        };
    };
    let consumed = end + 4;
    let head = &window[..consumed];
    let has_bare_lf = memchr::memchr_iter(b'\n', head).any(|lf| lf == 0 || head[lf - 1] != b'\r');
    if has_bare_lf || !may_be_head(head) {
        return Err(Status::BadRequest);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLong),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Status::BadRequest),
    }
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Err(Status::BadRequest);
    };
    if !target.starts_with('/') {
        return Err(Status::BadRequest);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut fields = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| Status::BadRequest)?;
        fields.push((header.name, value.trim()));
    }
    let mut head = Head {
        method,
        path,
        query,
        headers: fields,
        body_bytes: 0,
    };
    head.body_bytes = body_bytes(&head)?;
    Ok(Some((head, consumed)))
}

/// Whether what has come so far may become a head: a method in capitals, and no HTTP/2 preface.
fn may_be_head(window: &[u8]) -> bool {
    let method = window.split(|byte| *byte == b' ').next().unwrap_or(window);
    method.iter().all(u8::is_ascii_uppercase) && method.len() <= 16 && method != b"PRI"
}

fn body_bytes(head: &Head<'_>) -> Result<usize, Status> {
    if head.all("transfer-encoding").next().is_some() {
        return Err(Status::BadRequest);
    }
    let mut lengths = head.all("content-length");
    let Some(length) = lengths.next() else {
        return Ok(0);
    };
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    if lengths.next().is_some() || !is_number {
        return Err(Status::BadRequest);
    }
    length.parse().map_err(|_| Status::BodyTooLong)
}

impl<'a> Head<'a> {
    /// All headers of this name, which is in small letters.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.headers.iter();
        fields
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// The header of this name; `None`: there is none, or more than one.
    pub fn one(&self, name: &str) -> Option<&'a str> {
        let mut all = self.all(name);
        let value = all.next()?;
        all.next().is_none().then_some(value)
    }

    /// The items of the list that the headers of this name are together.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let items = self.all(name).flat_map(|value| value.split(','));
        items.map(str::trim).filter(|item| !item.is_empty())
    }

    /// The names and values of the query, with their escapes.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The value of a parameter of the query, decoded; `None`: it is not there, or not UTF-8.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters()
            .find_map(|(key, value)| (key == name).then(|| decoded(value)).flatten())
    }

    /// Whether another request may follow on the connection.
    pub fn keeps_connection(&self) -> bool {
        !self
            .list("connection")
            .any(|word| word.eq_ignore_ascii_case("close"))
    }

    /// The token of `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Option<&'a str> {
        let (scheme, token) = self.one("authorization")?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// A text of a query without its escapes.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "GET /ws?token=a%2Eb&device=my+phone HTTP/1.1\r\nHost: example.org\r\n\
                        Connection: keep-alive, Upgrade\r\nX: 1\r\nx: 2\r\n\r\n";

    #[test]
    fn a_head_has_its_parts() {
        let (head, consumed) = read_head(GOOD.as_bytes()).expect("good").expect("whole");
        assert_eq!(consumed, GOOD.len());
        assert_eq!((head.method, head.path), ("GET", "/ws"));
        assert_eq!(head.one("host"), Some("example.org"));
        assert_eq!(head.one("x"), None, "there are two");
        let connection: Vec<_> = head.list("connection").collect();
        assert_eq!(connection, ["keep-alive", "Upgrade"]);
        assert_eq!(head.parameter("token").as_deref(), Some("a.b"));
        assert_eq!(head.parameter("device").as_deref(), Some("my phone"));
        assert_eq!(head.parameter("ack"), None);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_head() {
        let head = |line: &str, fields: &str| format!("{line}\r\nHost: a\r\n{fields}\r\n");
        let get = "GET / HTTP/1.1";
        for (text, status) in [
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
                Status::BadRequest,
            ),
            ("\x16\x03\x01 hello".to_owned(), Status::BadRequest),
            ("get / HTTP/1.1\r\n".to_owned(), Status::BadRequest),
            (head("#GET / HTTP/1.1", ""), Status::BadRequest),
            (head("G-T / HTTP/1.1", ""), Status::BadRequest),
            (head("GET / HTTP/1.0", ""), Status::BadRequest),
            (head("GET http://a/ HTTP/1.1", ""), Status::BadRequest),
            (head("GET  / HTTP/1.1", ""), Status::BadRequest),
            (head("GET /", ""), Status::BadRequest),
            (head(get, "X: 1\nY: 2\r\n"), Status::BadRequest),
            (head(get, "X: 1\r\n folded\r\n"), Status::BadRequest),
            (head(get, "X : 1\r\n"), Status::BadRequest),
            (head(get, "X: \u{0}\r\n"), Status::BadRequest),
            (
                head(get, "Transfer-Encoding: chunked\r\n"),
                Status::BadRequest,
            ),
            (
                head(get, "Content-Length: 1\r\nContent-Length: 1\r\n"),
                Status::BadRequest,
            ),
            (head(get, "Content-Length: +1\r\n"), Status::BadRequest),
            (head(get, "Content-Length: 0x1\r\n"), Status::BadRequest),
            (
                head(get, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
                Status::BadRequest,
            ),
            (
                head(get, "Content-Length: 99999999999999999999\r\n"),
                Status::BodyTooLong,
            ),
            (head(get, &"X: 1\r\n".repeat(65)), Status::HeadTooLong),
            (
                format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9000)),
                Status::HeadTooLong,
            ),
        ] {
            assert_eq!(read_head(text.as_bytes()), Err(status), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_head_is_whole_when_its_end_has_come_and_not_before(cut in 0..GOOD.len()) {
            prop_assert_eq!(read_head(&GOOD.as_bytes()[..cut]), Ok(None));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_head(&bytes);
            let mut text = b"GET /?".to_vec();
            text.extend(&bytes);
            text.extend(b" HTTP/1.1\r\n\r\n");
            if let Ok(Some((head, _))) = read_head(&text) {
                head.parameter("a");
            }
        }
    }
}
