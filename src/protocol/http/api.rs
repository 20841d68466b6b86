//! Requests of the HTTP API: from a head and a body to a command.
//!
//! Owns which commands there are under `/api/v1/`, by which methods, and where their arguments
//! stand. The arguments themselves are those of JSON requests. Never decides who may ask.

use super::{
    head::{Head, decoded},
    response::Status,
};
use crate::{
    base::secret::Secret,
    protocol::{
        command::{Tag, Verb},
        error_code::ErrorCode,
        json::request,
        request::Request,
    },
};

/// Where commands are.
const PATH: &str = "/api/v1/";

/// Why a request is not looked at further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is answered.
    pub status: Status,
    /// The same as an error of the protocol.
    pub code: ErrorCode,
    /// What is wrong.
    pub words: &'static str,
}

const fn refused(status: Status, code: ErrorCode, words: &'static str) -> Refused {
    Refused {
        status,
        code,
        words,
    }
}

const NOT_A_COMMAND: Refused = refused(
    Status::NotFound,
    ErrorCode::UnknownCommand,
    "no such command",
);

/// What stands behind `/api/v1/`; `None`: the path is another.
pub fn command_of<'a>(head: &Head<'a>) -> Option<&'a str> {
    head.path.strip_prefix(PATH)
}

/// Reads a request for the command `name`, and the token it is asked by.
///
/// # Errors
/// The status that refuses it, and why.
pub fn read<'a>(
    name: &str,
    head: &Head<'a>,
    body: &'a [u8],
) -> Result<(Request<'a>, Option<Secret<String>>), Refused> {
    let (verb, _) = request::verb_of(name)
        .filter(|(verb, is_all)| is_offered(*verb) && (*is_all || verb.name() == name))
        .ok_or(NOT_A_COMMAND)?;
    let bad = |words| refused(Status::BadRequest, ErrorCode::BadRequest, words);
    let mut request = match head.method {
        "POST" => {
            let body = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
            request::of_body(name, body)
        }
        "GET" if only_reads(verb) && body.is_empty() => {
            let parameters = parameters(head).ok_or(bad("the query is not as it should be"))?;
            request::of_parameters(name, parameters)
        }
        "GET" if only_reads(verb) => return Err(bad("a GET has no body")),
        _ => {
            return Err(refused(
                Status::MethodNotAllowed,
                ErrorCode::BadRequest,
                "it is asked for with POST, and with GET where it only reads",
            ));
        }
    }
    .ok_or(bad("the arguments are one object, and each stands once"))?;
    if let Some(key) = head.one("idempotency-key") {
        let tag = Tag::new(key.trim_matches('"').as_bytes()).ok_or(refused(
            Status::BadRequest,
            ErrorCode::BadArgument,
            "Idempotency-Key is 1 to 32 letters, digits, _ or -",
        ))?;
        request.set_tag(tag);
    }
    let token = head.bearer().map(|token| Secret::new(token.to_owned()));
    Ok((Request::Json(Box::new(request)), token))
}

/// Whether there is such a command here: settings belong to a connection, and who asks is said with
/// each request.
fn is_offered(verb: Verb) -> bool {
    !matches!(verb, Verb::Set | Verb::Auth | Verb::Quit | Verb::Help)
}

/// Whether the command changes nothing that anybody could see.
fn only_reads(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Ping
            | Verb::Pull
            | Verb::Friends
            | Verb::Groups
            | Verb::GroupMembers
            | Verb::Who
            | Verb::Profile
            | Verb::Search
            | Verb::WhoAmI
    )
}

/// The names and values of a query, without their escapes.
fn parameters(head: &Head<'_>) -> Option<Vec<(String, String)>> {
    head.parameters()
        .map(|(name, value)| Some((decoded(name)?, decoded(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::http::head::read_request;

    /// What `docs/openapi.yaml` says: the methods of each path.
    fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut paths = BTreeMap::<_, Vec<_>>::new();
        let mut path = None;
        for line in include_str!("../../../docs/openapi.yaml").lines() {
            let Some(name) = line.strip_suffix(':') else {
                continue;
            };
            if name.starts_with("  /") {
                path = Some(name.trim());
            } else if let (Some(path), "    get" | "    post") = (path, name) {
                paths.entry(path).or_default().push(name.trim());
            }
        }
        paths
    }

    fn outcome(method: &str, target: &str, body: &str) -> Result<Verb, Status> {
        let text = format!(
            "{method} {target} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let read = read_request(text.as_bytes(), 1000).expect("a request");
        let (head, body, _) = read.expect("whole");
        let name = command_of(&head).ok_or(Status::NotFound)?;
        let (request, _) = read_asked(name, &head, body)?;
        Ok(request.verb())
    }

    fn read_asked<'a>(
        name: &str,
        head: &Head<'a>,
        body: &'a [u8],
    ) -> Result<(Request<'a>, Option<Secret<String>>), Status> {
        read(name, head, body).map_err(|refused| refused.status)
    }

    #[test]
    fn what_is_documented_is_what_there_is() {
        let documented = documented();
        let verbs = Verb::ALL.into_iter().filter(|verb| is_offered(*verb));
        let names = verbs.map(Verb::name).chain(["logout_all"]);
        let mut count = 0;
        for name in names.filter(|name| *name != "panic") {
            let path = format!("/api/v1/{name}");
            let methods = documented
                .get(path.as_str())
                .unwrap_or_else(|| panic!("{path}"));
            for method in ["get", "post"] {
                let is_there = outcome(&method.to_uppercase(), &path, "").is_ok();
                assert_eq!(methods.contains(&method), is_there, "{method} {path}");
            }
            count += 1;
        }
        let commands = documented.keys().filter(|path| path.starts_with(PATH));
        assert_eq!(
            commands.count(),
            count + 1,
            "no more but events are documented"
        );
    }

    #[test]
    fn arguments_stand_in_the_body_or_in_the_query() {
        assert_eq!(
            outcome("POST", "/api/v1/chat", "{\"to\":1}"),
            Ok(Verb::Chat)
        );
        assert_eq!(outcome("POST", "/api/v1/friends", " "), Ok(Verb::Friends));
        assert_eq!(
            outcome("GET", "/api/v1/who?uid=1&more=2&&x", ""),
            Ok(Verb::Who)
        );
        for (method, target, body, status) in [
            ("POST", "/api/v1/friends", "null", Status::BadRequest),
            ("POST", "/api/v1/friends", "{} {}", Status::BadRequest),
            (
                "POST",
                "/api/v1/friends",
                "{\"to\":1,\"to\":1}",
                Status::BadRequest,
            ),
            ("GET", "/api/v1/friends", "{}", Status::BadRequest),
            ("GET", "/api/v1/who?uid=1&uid=2", "", Status::BadRequest),
            ("GET", "/api/v1/who?uid=%f", "", Status::BadRequest),
            ("GET", "/api/v1/chat", "", Status::MethodNotAllowed),
            ("DELETE", "/api/v1/friends", "", Status::MethodNotAllowed),
            ("POST", "/api/v1/Friends", "", Status::NotFound),
            ("POST", "/api/v1/friends/", "", Status::NotFound),
            ("POST", "/api/v1/../v1/friends", "", Status::NotFound),
            ("POST", "/api/v2/friends", "", Status::NotFound),
        ] {
            assert_eq!(
                outcome(method, target, body),
                Err(status),
                "{method} {target} {body}"
            );
        }
    }
}
