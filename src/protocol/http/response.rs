//! Answers to requests: their status, and how they are written.

use crate::protocol::{error_code::ErrorCode, json, reply::Reply, request::HttpReply};

/// What a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the variants are the statuses of the standard, by their names"
)]
pub enum Status {
    SwitchingProtocols,
    Ok,
    NoContent,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    BodyTooLong,
    UpgradeRequired,
    TooManyRequests,
    HeadTooLong,
    Internal,
    NotImplemented,
    Unavailable,
    TimedOut,
}

impl Status {
    /// All of them, by their numbers.
    pub const ALL: [Self; 17] = [
        Self::SwitchingProtocols,
        Self::Ok,
        Self::NoContent,
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::BodyTooLong,
        Self::UpgradeRequired,
        Self::TooManyRequests,
        Self::HeadTooLong,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
        Self::TimedOut,
    ];

    /// Its number, in digits.
    pub fn number(self) -> &'static str {
        &self.line()[..3]
    }

    /// The status of an error's code.
    pub fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest | ErrorCode::BadArgument => Self::BadRequest,
            ErrorCode::NotLoggedIn | ErrorCode::AuthFailed | ErrorCode::TokenExpired => {
                Self::Unauthorized
            }
            ErrorCode::Forbidden => Self::Forbidden,
            ErrorCode::NotFound | ErrorCode::UnknownCommand => Self::NotFound,
            ErrorCode::UserExists | ErrorCode::AlreadyLoggedIn => Self::Conflict,
            ErrorCode::LineTooLong => Self::BodyTooLong,
            ErrorCode::RateLimited => Self::TooManyRequests,
            ErrorCode::Internal => Self::Internal,
            ErrorCode::Unsupported => Self::NotImplemented,
            ErrorCode::Timeout => Self::TimedOut,
            ErrorCode::Overloaded
            | ErrorCode::TooManyConnections
            | ErrorCode::BackendUnavailable
            | ErrorCode::ShuttingDown => Self::Unavailable,
        }
    }

    /// Number and words of the status line.
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::SwitchingProtocols => "101 Switching Protocols",
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Conflict => "409 Conflict",
            Self::BodyTooLong => "413 Content Too Large",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::TooManyRequests => "429 Too Many Requests",
            Self::HeadTooLong => "431 Request Header Fields Too Large",
            Self::Internal => "500 Internal Server Error",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::TimedOut => "504 Gateway Timeout",
        }
    }

    /// A header that goes with the status, its line end included.
    fn header(self) -> &'static str {
        match self {
            Self::Unauthorized => "WWW-Authenticate: Bearer\r\n",
            Self::MethodNotAllowed => "Allow: GET\r\n",
            Self::UpgradeRequired => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            _ => "",
        }
    }
}

/// Appends an answer with a JSON body, after which the connection is closed.
pub fn write(status: Status, body: &str, out: &mut Vec<u8>) {
    write_head(status, &HttpReply::LAST, status.header(), body.len(), out);
    out.extend_from_slice(body.as_bytes());
}

/// Appends the answer that is an error's; `code` is its word.
pub fn write_error(status: Status, code: ErrorCode, words: &str, out: &mut Vec<u8>) {
    write(status, &error_body(code, words, None), out);
}

fn error_body(code: ErrorCode, words: &str, retry_ms: Option<u64>) -> String {
    let mut error = serde_json::json!({"code": code.word(), "message": words});
    if let Some(retry_ms) = retry_ms {
        error["retry_ms"] = retry_ms.into();
    }
    serde_json::json!({ "error": error }).to_string()
}

/// Appends the answer to a command.
pub fn write_reply(status: Status, reply: &Reply, http: &HttpReply, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let header = match reply {
        Reply::Error {
            code,
            retry_ms,
            words,
        } => {
            body.extend(error_body(*code, words, *retry_ms).bytes());
            match status {
                Status::MethodNotAllowed => "Allow: GET, POST\r\n".to_owned(),
                Status::TooManyRequests => {
                    let seconds = retry_ms.unwrap_or(1000).div_ceil(1000).max(1);
                    format!("Retry-After: {seconds}\r\n")
                }
                status => status.header().to_owned(),
            }
        }
        reply => {
            json::reply::write_data(reply, &mut body);
            String::new()
        }
    };
    write_head(status, http, &header, body.len(), out);
    out.extend_from_slice(&body);
}

/// Appends the answer to a `pull`: so many `messages`, which are objects with commas between them.
pub fn write_pulled(
    messages: &[u8],
    count: usize,
    more: bool,
    http: &HttpReply,
    out: &mut Vec<u8>,
) {
    let mut body = Vec::with_capacity(messages.len() + 64);
    json::reply::write_page((messages, count), Some(more), &mut body);
    write_head(Status::Ok, http, "", body.len(), out);
    out.extend_from_slice(&body);
}

/// Appends the answer to a browser that asks what pages may do.
pub fn write_preflight(http: &HttpReply, out: &mut Vec<u8>) {
    let allowed = "Allow: GET, POST, OPTIONS\r\nAccess-Control-Allow-Methods: GET, POST\r\n\
                   Access-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key, \
                   Last-Event-ID\r\nAccess-Control-Max-Age: 600\r\n";
    write_status(Status::NoContent, http, allowed, out);
    out.extend_from_slice(b"\r\n");
}

fn write_head(status: Status, http: &HttpReply, more: &str, length: usize, out: &mut Vec<u8>) {
    write_status(status, http, more, out);
    let head = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// The status line, and the headers that every answer has; `more` has its line ends.
fn write_status(status: Status, http: &HttpReply, more: &str, out: &mut Vec<u8>) {
    let connection = if http.keep_alive {
        "keep-alive"
    } else {
        "close"
    };
    let head = format!(
        "HTTP/1.1 {}\r\n{more}Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Connection: {connection}\r\n",
        status.line()
    );
    out.extend_from_slice(head.as_bytes());
    if let Some(origin) = &http.origin {
        let headers = format!(
            "Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n\
             Access-Control-Expose-Headers: Retry-After\r\n"
        );
        out.extend_from_slice(headers.as_bytes());
    }
}
