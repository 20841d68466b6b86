//! `register`, `login`, `auth`: how a connection gets its user.

use std::time::Duration;

use super::{
    Failure,
    admission::{self, Admitted, now_ms},
    answered, check_numbers,
    group::with_standings,
    issued, opaque, sessions,
};
use crate::{
    base::{
        close::CloseReason,
        id::{GroupId, SessionId, UserId},
        mutation::{Mutation, is_seeded},
        names,
        secret::Secret,
    },
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, method},
    },
    flow::{commands::message, core::Core, routes::bind_request},
    limits::LoginOutcome,
    proto::{
        AckBatchRequest, AckRange, BindRouteRequest, BindRouteResponse, CheckSessionRequest, Code,
        GetUserGroupsRequest, LoginRequest, LoginResponse, LogoutRequest, NetworkMemory,
        RegisterRequest,
    },
    protocol::{command::Dialect, error_code::ErrorCode, http::events::LastEvent, reply::Reply},
    session::{
        LoginSession,
        job::{Identity, Job},
    },
    shard::unsettled::Lack,
    token::{Grant, TokenError, Verified},
};

pub(super) const NOT_VALID: Failure =
    Failure::Refused(ErrorCode::AuthFailed, "the token is not valid");
/// Of a token, or of a login that was under way while all sessions of its user were ended.
pub(super) const SESSION_OVER: Failure = Failure::Refused(
    ErrorCode::AuthFailed,
    "the session was ended, log in with the password",
);
/// How long a login waits for a service without which it can go on.
const PATIENCE: Duration = Duration::from_secs(1);

impl Failure {
    /// The same of a token, which is good, though its user may not be there any more.
    fn of_token(self) -> Self {
        match self {
            Self::Backend(Code::NotFound) => NOT_VALID,
            other => other,
        }
    }

    /// The same of a registration, which may have been done: its user has to hear how to find out.
    fn of_registration(self) -> Self {
        const WORDS: &str = "whether the account was created is not known: try to log in";
        match self {
            Self::Call(CallError::Timeout) => Self::Refused(ErrorCode::Timeout, WORDS),
            Self::Call(CallError::Lost) => Self::Refused(ErrorCode::BackendUnavailable, WORDS),
            other => other,
        }
    }

    /// The account is there, and its session could not begin. No code must say that nothing was
    /// done.
    fn after_registration(self) -> Self {
        const WORDS: &str = "the account was created, but its session could not begin: log in";
        match self {
            Self::Call(CallError::Timeout) => Self::Refused(ErrorCode::Timeout, WORDS),
            failure if failure.is_passing() => Self::Refused(ErrorCode::BackendUnavailable, WORDS),
            other => other,
        }
    }
}

pub(super) async fn register<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    (job, dialect): (&Job, Dialect),
    user: &str,
    password: &Secret<String>,
) -> Result<Reply, Failure> {
    let (registration, network) = admission::registration(core, (job.key, dialect), user)?;
    let response = core
        .ask::<method::Register>(RegisterRequest {
            username: user.into(),
            password: password.expose().as_bytes().into(),
            network,
        })
        .await;
    let response = match response {
        Ok(response) => response,
        Err(failure) => {
            if failure.changed_nothing() {
                registration.came_to_nothing(now_ms(core));
            }
            return Err(failure.of_registration());
        }
    };
    if job.session_id() != 0 {
        // The connection goes over to the new account, as MPIM's tools expect. That is no `logout`
        // of the old one: its tokens stay good.
        core.shard().log_out_in_place(job.key, false);
    }
    let login = Login {
        user: response.user_id,
        name: user,
        // Nobody can have ended the sessions of an account that is new.
        origin: Origin::Password {
            epoch: None,
            given_ms: core.shard().now().unix_ms,
        },
    };
    let begun = begin_session(core, job, login).await;
    begun.map_err(Failure::after_registration)
}

pub(super) async fn login<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    user: &str,
    password: &Secret<String>,
) -> Result<Reply, Failure> {
    let admitted = admission::login(core, job, user).await?;
    let given_ms = core.shard().now().unix_ms;
    match check_password(core, user, password, &admitted).await {
        Ok(response) => {
            let attempt = admitted.attempt;
            attempt.judged(LoginOutcome::Succeeded, now_ms(core));
            let epoch = response.session_epoch;
            // As it was registered, where it was typed in other letters.
            let name = match response.name.as_str() {
                registered if names::is_user_name(registered) => registered,
                _ => user,
            };
            let login = Login {
                user: response.user_id,
                name,
                origin: Origin::Password { epoch, given_ms },
            };
            begin_session(core, job, login).await
        }
        // A wrong password and an unknown user must look the same.
        Err(Failure::Backend(Code::Unauthenticated | Code::NotFound | Code::Invalid)) => {
            let attempt = admitted.attempt;
            attempt.judged(LoginOutcome::Failed, now_ms(core));
            Err(Failure::Backend(Code::Unauthenticated))
        }
        Err(failure) => Err(failure),
    }
}

/// Asks the User Service whose name and password these are.
async fn check_password<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: &str,
    password: &Secret<String>,
    admitted: &Admitted<'_>,
) -> Result<LoginResponse, Failure> {
    let request = || LoginRequest {
        username: user.into(),
        password: password.expose().as_bytes().into(),
        network: admitted.network.clone(),
        only_from_known_network: admitted.only_known.is_some(),
    };
    let refused = core.backend.call::<method::Login>(request()).await?;
    if matches!(refused.code(), Code::Ok | Code::Unauthenticated) {
        core.gateway.hear_of_networks(refused.network());
    }
    if let Some(retry_ms) = admitted.only_known
        && refused.code() == Code::Unauthenticated
        && refused.network() == NetworkMemory::NetworkNew
    {
        // The password was not looked at.
        return Err(admission::too_soon(core, retry_ms));
    }
    if !says_already_online(&refused) {
        return answered(refused);
    }
    // MPIM's service remembers who is logged in, also where the gateway that logged them in is no
    // more.
    let known = core.gateway.known_user(user);
    let user_id = Some(refused.user_id).filter(|id| *id > 0).or(known);
    let user_id = user_id.ok_or(STAYS_ONLINE)?;
    log::info!("user {user_id} counts as logged in: logging out and in again");
    core.ask::<method::Logout>(LogoutRequest {
        user_id,
        token: String::new(),
    })
    .await?;
    let response = core.backend.call::<method::Login>(request()).await?;
    if says_already_online(&response) {
        return Err(STAYS_ONLINE);
    }
    answered(response)
}

/// The password may be right: to call it wrong would send the user looking for the fault where it
/// is not.
const STAYS_ONLINE: Failure = Failure::Refused(
    ErrorCode::AlreadyLoggedIn,
    "the user service counts this user as online",
);

/// Such a refusal has no code of its own, only words.
fn says_already_online(response: &LoginResponse) -> bool {
    response.result.as_ref().is_some_and(|result| {
        result.code == i32::from(Code::Invalid) && result.msg.contains("already online")
    })
}

pub(super) async fn auth<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    token: &Secret<String>,
    (user, last_event): (Option<UserId>, Option<LastEvent>),
) -> Result<Reply, Failure> {
    let grant = grant(core, token).await?;
    if user.is_some_and(|user| user != grant.user) {
        return Err(NOT_VALID);
    }
    if let Some(last_event) = last_event {
        let login_session = Origin::Token(grant).login_session(0);
        let checked = check_session(core, grant.user, login_session).await;
        checked.map_err(Failure::of_token)?;
        confirm_up_to(core, grant.user, last_event).await;
    }
    let login = Login {
        user: grant.user,
        name: "",
        origin: Origin::Token(grant),
    };
    let begun = begin_session(core, job, login).await;
    begun.map_err(Failure::of_token)
}

/// The client has a stream up to `last`. Where that cannot be noted, it comes again, marked.
async fn confirm_up_to<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    last: LastEvent,
) {
    let acks = vec![AckRange {
        user_id: user,
        group_id: last.group,
        from_seq: 1,
        to_seq: last.seq,
    }];
    let request = AckBatchRequest { acks };
    if let Err(failure) = core.ask::<method::AckBatch>(request).await {
        log::debug!("what user {user} has was not noted: {failure:?}");
    }
}

/// Whom the token logs in, and by which session.
async fn grant<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    token: &Secret<String>,
) -> Result<Grant, Failure> {
    if opaque::may_be(token.expose()) {
        return opaque::grant(core, token).await;
    }
    match verify(core, token)? {
        Verified::Own(grant) => Ok(grant),
        Verified::Issued(issued) => issued::grant(core, issued).await,
    }
}

/// Whom the token logs in, if it is good now.
fn verify<B, P>(core: &Core<B, P>, token: &Secret<String>) -> Result<Verified, Failure> {
    let now = core.shard().now();
    let verified = core
        .gateway
        .tokens
        .verify(token.expose(), now.unix_ms / 1000);
    verified.map_err(|error| match error {
        TokenError::Expired => Failure::Refused(ErrorCode::TokenExpired, "the token has expired"),
        TokenError::FromTheFuture { ahead_s } => {
            if core.gateway.may_warn_of_clocks(now.monotonic_us / 1000) {
                log::warn!(
                    "a token is refused as it is dated {ahead_s} s ahead of this gateway's clock, more than \
                     auth.clock_leeway: the clocks of the gateways differ"
                );
            }
            Failure::Refused(
                ErrorCode::AuthFailed,
                "the token is dated ahead of the gateway's clock",
            )
        }
        TokenError::Invalid => NOT_VALID,
    })
}

/// A user on the way in.
struct Login<'a> {
    user: UserId,
    /// Empty: not known.
    name: &'a str,
    origin: Origin,
}

/// What a login is by.
#[derive(Clone, Copy)]
enum Origin {
    /// A password: a session begins, and gets a token.
    Password {
        /// The user's epoch at that moment, where the User Service counts them.
        epoch: Option<u64>,
        /// When the command was taken up, in ms since 1970.
        given_ms: u64,
    },
    /// A token: its session goes on.
    Token(Grant),
}

impl Origin {
    /// The session that the login belongs to, on a connection whose own session is `session_id`.
    fn login_session(self, session_id: SessionId) -> LoginSession {
        match self {
            Self::Password { epoch, given_ms } => LoginSession {
                id: session_id,
                epoch,
                issued_ms: given_ms,
            },
            Self::Token(grant) => LoginSession {
                // A token that names no session goes on as one of its own.
                id: grant.session.unwrap_or(session_id),
                epoch: grant.epoch,
                issued_ms: grant.issued_s.saturating_mul(1000),
            },
        }
    }
}

/// The user is known: binds the route, takes up the groups, and settles from which numbers on
/// pushes go out.
async fn begin_session<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    login: Login<'_>,
) -> Result<Reply, Failure> {
    if job.is_without_connection() {
        return open_session(core, login).await;
    }
    let Login { user, name, origin } = login;
    check_numbers([user])?;
    let session_id = core.shard().next_session_id();
    // Attached before it is bound: what is published in between is held, not lost.
    if !core
        .shard()
        .attach(job.key, user, name.to_owned(), session_id)
    {
        return Err(Failure::Refused(
            ErrorCode::Internal,
            "the connection is closed",
        ));
    }
    let login_session = origin.login_session(session_id);
    core.shard().set_login_session(job.key, login_session);
    if matches!(origin, Origin::Password { .. }) {
        core.shard().password_given(job.key);
    }
    let bound = bind(core, job, (user, name), session_id).await;
    if !core.shard().is_logged_in(job.key, session_id) {
        // The connection ended while it was being bound; its own unbinding may have overtaken the
        // binding.
        core.shard().unbind(user, session_id);
        return Err(Failure::Refused(
            ErrorCode::Internal,
            "the connection is closed",
        ));
    }
    let Bound { replaced } = bound.inspect_err(|_| {
        core.shard().log_out_in_place(job.key, false);
    })?;
    Ok(Reply::LoggedIn {
        uid: user,
        session: login_session.id,
        token: match origin {
            Origin::Password { .. } => {
                // The service has told its present epoch.
                let held = core.shard().held_session(job.key);
                held.map(|held| sessions::issue_token(core, user, held.login_session))
            }
            Origin::Token(_) => None,
        },
        replaced,
    })
}

/// The same for who asks without a connection: nothing is bound, and nobody is displaced.
async fn open_session<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    login: Login<'_>,
) -> Result<Reply, Failure> {
    let user = login.user;
    check_numbers([user])?;
    let session_id = core.shard().next_session_id();
    let login_session = login.origin.login_session(session_id);
    let login_session = check_session(core, user, login_session).await?;
    Ok(Reply::LoggedIn {
        uid: user,
        session: login_session.id,
        token: Some(sessions::issue_token(core, user, login_session)),
        replaced: false,
    })
}

/// Who asks by `token`, without a connection.
pub(super) async fn identify<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    token: &Secret<String>,
) -> Result<Identity, Failure> {
    let grant = grant(core, token).await?;
    // A token that names no session is none that could be ended alone.
    let login_session = Origin::Token(grant).login_session(0);
    let checked = check_session(core, grant.user, login_session).await;
    Ok(Identity {
        user: grant.user,
        session_id: 0,
        login_session: checked.map_err(Failure::of_token)?,
    })
}

/// Sees to it that `login_session` of `user` has not been ended; gives it its present epoch.
async fn check_session<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
    login_session: LoginSession,
) -> Result<LoginSession, Failure> {
    let request = CheckSessionRequest {
        user_id: user,
        login_session_id: login_session.id,
        token_issued_ms: login_session.issued_ms,
        session_epoch: login_session.epoch,
    };
    match core.ask::<method::CheckSession>(request).await {
        Ok(response) => Ok(LoginSession {
            epoch: response.session_epoch.or(login_session.epoch),
            ..login_session
        }),
        // It ends none.
        Err(Failure::Call(CallError::Unsupported)) => Ok(login_session),
        Err(Failure::Backend(Code::Unauthenticated)) => Err(SESSION_OVER),
        Err(failure) => Err(failure),
    }
}

/// What the binding of a session brought about.
struct Bound {
    /// Another session was displaced.
    replaced: bool,
}

async fn bind<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    (user, name): (UserId, &str),
    session_id: SessionId,
) -> Result<Bound, Failure> {
    let held = core.shard().held_session(job.key);
    let held = held.ok_or(Failure::Refused(
        ErrorCode::Internal,
        "the connection is closed",
    ))?;
    let request = bind_request(core, user, held);
    let bound = bind_route(core, request).await?;
    let mut lack = if bound.is_some() {
        Lack::NOTHING
    } else {
        Lack::ROUTE
    };
    let bound = bound.unwrap_or_default();
    // A session that comes late is told that it is displaced itself.
    let mut displaced = bound.displaced.iter();
    let replaced = displaced.any(|gone| gone.session_id != session_id);
    {
        let mut shard = core.shard();
        let too_low = u64::from(is_seeded(Mutation::BaselineBeforeBinding));
        let last_seq = bound.last_seq.map(|last| last.saturating_sub(too_low));
        shard.set_baseline(job.key, last_seq);
        shard.set_session_epoch(job.key, bound.session_epoch);
        for gone in bound.displaced {
            // Those on other cores are told over the bus, and this one is too: here it need not
            // wait for it.
            if gone.gateway_id == core.route.as_str() && gone.session_id != session_id {
                shard.end_session(user, gone.session_id, CloseReason::Replaced);
            }
        }
    }
    match join_groups(core, job, user).await {
        // Without a Group Service that knows who is where, nobody is in a group.
        Ok(()) | Err(Failure::Call(CallError::Unsupported)) => {}
        // One that is away costs its own commands, and the pushes of groups until it can be asked.
        Err(failure) if failure.is_passing() => lack.groups = true,
        Err(failure) => return Err(failure),
    }
    core.shard().lacks(user, lack);
    if bound.last_seq.is_some() {
        redeliver(core, job, user).await?;
    } else if !name.is_empty() {
        core.gateway.remember_user(name, user);
    }
    Ok(Bound { replaced })
}

/// Binds the route; `None`: that cannot be done now, and the login goes on without, where that is
/// conceded.
async fn bind_route<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    request: BindRouteRequest,
) -> Result<Option<BindRouteResponse>, Failure> {
    let goes_on = core.gateway.concessions.login_without_presence;
    let bound = async {
        let _lock = core.gateway.route_locks.take(request.user_id).await;
        core.ask::<method::BindRoute>(request).await
    };
    let bound = if goes_on {
        let in_time = core.within(PATIENCE, bound).await;
        in_time.unwrap_or(Err(Failure::Call(CallError::Timeout)))
    } else {
        bound.await
    };
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(Failure::Backend(Code::Unauthenticated)) => Err(SESSION_OVER),
        Err(failure) if goes_on && failure.is_passing() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Takes up the user's groups. Groups that are new to this core are listened to before their last
/// numbers are read, so that nothing falls between the two.
async fn join_groups<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    user: UserId,
) -> Result<(), Failure> {
    let request = GetUserGroupsRequest { user_id: user };
    let groups = core.ask::<method::GetUserGroups>(request);
    let groups = if core.gateway.concessions.login_without_presence {
        let in_time = core.within(PATIENCE, groups).await;
        in_time.unwrap_or(Err(Failure::Call(CallError::Timeout)))?
    } else {
        groups.await?
    };
    let mut groups = with_standings(core, &groups);
    let held: Vec<GroupId> = groups.iter().map(|(group, _)| *group).collect();
    let mut unknown = Vec::new();
    {
        let mut shard = core.shard();
        for group in &held {
            if shard.hold_group(*group) {
                unknown.push(*group);
            }
        }
    }
    for group in &unknown {
        core.bus.subscribe(*group).await;
    }
    let mut outcome = Ok(());
    if !unknown.is_empty() {
        match core.ask::<method::GetUserGroups>(request).await {
            Ok(again) => groups = with_standings(core, &again),
            Err(failure) => outcome = Err(failure),
        }
    }
    let mut shard = core.shard();
    if outcome.is_ok() {
        for (group, standing) in groups {
            // A group joined between the two readings comes by its own push, which has it listened
            // to as well.
            if held.contains(&group) {
                shard.add_member(job.key, group, standing.last_seq);
            }
        }
    }
    for group in held {
        shard.release_group(group);
    }
    outcome
}

/// What was handed out before and never confirmed comes again, before anything newer.
async fn redeliver<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    user: UserId,
) -> Result<(), Failure> {
    let mut messages = message::handed_out(core, user).await?;
    let streams = core.shard().streams_of(job.key);
    message::drop_what_is_not_theirs(core, &streams, &mut messages);
    core.shard().redeliver(job.key, messages);
    Ok(())
}
