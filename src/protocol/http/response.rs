//! Answers to requests: their status, and how they are written.

use crate::protocol::error_code::ErrorCode;

/// What a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the variants are the statuses of the standard, by their names"
)]
pub enum Status {
    SwitchingProtocols,
    Ok,
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
    pub const ALL: [Self; 16] = [
        Self::SwitchingProtocols,
        Self::Ok,
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
    let head = format!(
        "HTTP/1.1 {}\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        status.line(),
        status.header(),
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// Appends the answer that is an error's; `code` is its word.
pub fn write_error(status: Status, code: ErrorCode, words: &str, out: &mut Vec<u8>) {
    let body = serde_json::json!({"error": {"code": code.word(), "message": words}});
    write(status, &body.to_string(), out);
}
