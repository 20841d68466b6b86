//! Whether a request is meant for this machine.
//!
//! A page in a browser can make its own name stand for 127.0.0.1 and then read what a listener
//! there says (DNS rebinding). It cannot change the name that the browser sends along.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// For a listener on loopback: answers what asks for anybody but this machine with 421.
pub(super) async fn only_loopback(request: Request, next: Next) -> Response {
    let asked: Option<Vec<&str>> = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().ok())
        .collect();
    let named = request.uri().authority().map(Authority::as_str);
    // Browsers always send one; who speaks HTTP/1.0 may not.
    let is_meant = asked.is_some_and(|asked| asked.into_iter().chain(named).all(is_loopback));
    if is_meant {
        return next.run(request).await;
    }
    let words = "this listener answers requests to localhost, 127.0.0.1 or [::1] only\n";
    (StatusCode::MISDIRECTED_REQUEST, words).into_response()
}

/// Whether `host`, with or without a port, can only be this machine.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address: Option<IpAddr> = address.unwrap_or(name).parse().ok();
    name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_meant_for_it_and_no_others() {
        for host in [
            "localhost",
            "localhost:8100",
            "LOCALHOST.",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.9.9.9:65535",
            "[::1]",
            "[::1]:8100",
            "[::ffff:127.0.0.1]:8100",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":8100",
            "evil.example",
            "evil.example:8100",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil@127.0.0.1",
            "10.0.0.1:8100",
            "[::2]:8100",
            "0.0.0.0:8100",
            "localhost:8100/path",
            "local host",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
