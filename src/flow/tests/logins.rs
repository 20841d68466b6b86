//! Logins that are held up, and what the User Service is asked of where they come from.

use super::*;
use crate::{
    flow::commands,
    proto::NetworkMemory::{self, NetworkKnown, NetworkNew, NetworkNotRemembered},
    protocol::error_code::ErrorCode,
};

/// The error that a job comes to: its code and its words.
fn error_of(world: &World, mut job: Job) -> Option<(ErrorCode, String)> {
    let core = Rc::clone(&world.core);
    let told = Rc::new(RefCell::new(None));
    let heard = Rc::clone(&told);
    let mut flow: Flow = Box::pin(async move {
        if let [Reply::Error { code, words, .. }] = commands::run(&core, &mut job).await.as_slice()
        {
            heard.replace(Some((*code, words.to_string())));
        }
    });
    assert!(go_on(&mut flow));
    told.take()
}

/// What is answered to `login:alice:…` from `address`, as a code, and whether the service was
/// asked.
fn try_login(world: &World, address: [u8; 4]) -> (Option<ErrorCode>, Option<proto::LoginRequest>) {
    let before = world.calls.borrow().len();
    let (_, job) = world.connect(address, b"login:alice:secret\n");
    let code = error_of(world, job).map(|(code, _)| code);
    let asked = world.calls.borrow()[before..]
        .iter()
        .find_map(|call| match call {
            Request::Login(login) => Some(login.clone()),
            _ => None,
        });
    (code, asked)
}

/// A service that finds every password wrong, and knows `home`.
fn world(memory: impl Fn(&[u8]) -> NetworkMemory + 'static) -> World {
    World::new(0, move |request| match request {
        Request::Login(login) => Ok(Response::Login(proto::LoginResponse {
            result: result(Code::Unauthenticated),
            network: memory(&login.network).into(),
            ..Default::default()
        })),
        _ => Err(CallError::Unsupported),
    })
}

const HOME: [u8; 4] = [192, 0, 2, 1];

/// Fails in alice's name until that closes the door, each time from another network.
fn fail_elsewhere(world: &World) {
    for n in 0..6 {
        let (code, asked) = try_login(world, [198, 51, 100, n]);
        assert_eq!(code, Some(ErrorCode::AuthFailed));
        let asked = asked.expect("a call");
        assert_eq!(asked.network, [198, 51, 100, n]);
        assert!(!asked.only_from_known_network);
    }
}

#[test]
fn a_name_that_is_held_up_is_open_from_where_the_service_knows_it() {
    let memory = |network: &[u8]| {
        if network == HOME {
            NetworkKnown
        } else {
            NetworkNew
        }
    };
    let world = world(memory);
    fail_elsewhere(&world);
    // From elsewhere the service says no before it looks at the password.
    let (code, asked) = try_login(&world, [203, 0, 113, 1]);
    assert_eq!(code, Some(ErrorCode::RateLimited));
    assert!(asked.expect("a call").only_from_known_network);
    // From home it looks, and a wrong one is a failure of that network as well.
    for _ in 0..6 {
        let (code, asked) = try_login(&world, HOME);
        assert_eq!(code, Some(ErrorCode::AuthFailed));
        assert!(asked.expect("a call").only_from_known_network);
    }
    let (code, asked) = try_login(&world, HOME);
    assert_eq!((code, asked), (Some(ErrorCode::RateLimited), None));
}

#[test]
fn a_service_that_remembers_no_networks_is_not_asked_while_a_name_is_held_up() {
    let world = world(|_| NetworkNotRemembered);
    fail_elsewhere(&world);
    for address in [HOME, [203, 0, 113, 1]] {
        let (code, asked) = try_login(&world, address);
        assert_eq!((code, asked), (Some(ErrorCode::RateLimited), None));
    }
}

/// What is answered to `register:alice:…`, where `service` answers each call.
fn try_registration(
    service: impl FnMut(&Request) -> Result<Response, CallError> + 'static,
) -> (ErrorCode, String) {
    let world = World::new(0, service);
    let (_, job) = world.connect(LOCALHOST, b"register:alice:secret\n");
    error_of(&world, job).expect("an error")
}

#[test]
fn who_has_an_account_without_a_session_or_may_have_one_hears_so() {
    let registered = |request: &Request| match request {
        Request::Register(_) => Some(Ok(Response::Register(proto::RegisterResponse {
            result: result(Code::Ok),
            user_id: 7,
        }))),
        _ => None,
    };
    for (failure, expected) in [
        (CallError::Timeout, ErrorCode::Timeout),
        // Its own code would mean that nothing was done.
        (CallError::Overloaded, ErrorCode::BackendUnavailable),
        (CallError::Unavailable, ErrorCode::BackendUnavailable),
    ] {
        let answer = move |request: &Request| registered(request).unwrap_or(Err(failure));
        let (code, words) = try_registration(answer);
        assert_eq!(code, expected);
        assert!(words.starts_with("the account was created"), "{words}");
    }
    for (failure, expected) in [
        (CallError::Timeout, ErrorCode::Timeout),
        (CallError::Lost, ErrorCode::BackendUnavailable),
    ] {
        let (code, words) = try_registration(move |_| Err(failure));
        assert_eq!(code, expected);
        assert!(
            words.starts_with("whether the account was created"),
            "{words}"
        );
    }
    let (code, words) = try_registration(|_| Err(CallError::Overloaded));
    assert_eq!(code, ErrorCode::Overloaded);
    assert!(!words.contains("account"), "{words}");
}

/// What `auth:…` comes to, as a code, and how many services were asked whose the token is.
fn try_token(world: &World, token: &str) -> (Option<ErrorCode>, usize) {
    let (_, job) = world.connect(HOME, format!("auth:{token}\n").as_bytes());
    let code = error_of(world, job).map(|(code, _)| code);
    let calls = world.calls.borrow();
    let asked = calls
        .iter()
        .filter(|call| matches!(call, Request::VerifyToken(_)));
    (code, asked.count())
}

const OPAQUE: &str = "opaque-token-of-alice";

#[test]
fn whose_a_token_is_that_says_nothing_the_service_is_asked_once_in_a_while() {
    let world = World::new(0, |request| match request {
        Request::VerifyToken(asked) => Ok(Response::VerifyToken(proto::VerifyTokenResponse {
            result: result(match asked.token == OPAQUE.as_bytes() {
                true => Code::Ok,
                false => Code::Unauthenticated,
            }),
            user_id: i64::from(asked.token == OPAQUE.as_bytes()) * 7,
            ..Default::default()
        })),
        _ => Err(CallError::Unavailable),
    });
    // It is good: what is missing is the rest of a login.
    let unavailable = Some(ErrorCode::BackendUnavailable);
    assert_eq!(try_token(&world, OPAQUE), (unavailable, 1));
    assert_eq!(try_token(&world, OPAQUE), (unavailable, 1));
    let refused = Some(ErrorCode::AuthFailed);
    assert_eq!(try_token(&world, "opaque-token-of-nobody"), (refused, 2));
    assert_eq!(try_token(&world, "opaque-token-of-nobody"), (refused, 2));
    // Too short to be one, and what may be signed.
    assert_eq!(try_token(&world, "short"), (refused, 2));
    assert_eq!(try_token(&world, "opaque.token.of-alice"), (refused, 2));
}

#[test]
fn a_service_that_issues_no_such_tokens_is_not_asked_again() {
    let world = World::new(0, |_| Err(CallError::Unsupported));
    let refused = Some(ErrorCode::AuthFailed);
    assert_eq!(try_token(&world, OPAQUE), (refused, 1));
    assert_eq!(try_token(&world, "another-opaque-token"), (refused, 1));
}
