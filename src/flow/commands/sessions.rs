//! `refresh`, `password`, `logout`, `logout:all`: what becomes of a session and its tokens once it
//! is there.

use super::{Failure, admission, answered, auth::SESSION_OVER};
use crate::{
    base::{
        id::UserId,
        mutation::{Mutation, is_seeded},
        secret::Secret,
    },
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::method,
    },
    flow::{core::Core, parting},
    proto::{ChangePasswordRequest, Code, EndAllSessionsRequest, EndSessionRequest, LogoutRequest},
    protocol::{error_code::ErrorCode, reply::Reply},
    session::{
        LoginSession,
        job::{Identity, Job},
    },
    token::Grant,
};

pub(super) fn refresh<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    let identity = identity_of(job)?;
    Ok(Reply::Token(issue_token(
        core,
        identity.user,
        identity.login_session,
    )))
}

/// Who asks for what only somebody logged in may.
fn identity_of(job: &Job) -> Result<Identity, Failure> {
    job.identity
        .ok_or(Failure::Refused(ErrorCode::NotLoggedIn, "log in first"))
}

/// A token of `login_session`, which is one of `user`.
pub(super) fn issue_token<B, P>(
    core: &Core<B, P>,
    user: UserId,
    login_session: LoginSession,
) -> Secret<String> {
    let mut shard = core.shard();
    let number = u128::from(shard.next_session_id());
    let grant = Grant {
        user,
        session: Some(login_session.id),
        epoch: login_session.epoch,
        issued_s: shard.now().unix_ms / 1000,
    };
    Secret::new(core.gateway.tokens.issue(&grant, number))
}

pub(super) async fn logout<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    let identity = identity_of(job)?;
    if identity.login_session.id == 0 {
        let words = "this token names no session that could end: use logout_all";
        return Err(Failure::Refused(ErrorCode::Unsupported, words));
    }
    let life_ms = core
        .gateway
        .tokens
        .longest_life()
        .map(|life| life.as_millis());
    let request = EndSessionRequest {
        user_id: job.user(),
        login_session_id: identity.login_session.id,
        session_id: job.session_id(),
        // 0: not known.
        tokens_live_ms: life_ms.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX)),
    };
    match core.backend.call::<method::EndSession>(request).await {
        // There is nothing but the session.
        Err(CallError::Unsupported) if job.is_without_connection() => {
            return Err(Failure::Call(CallError::Unsupported));
        }
        Err(CallError::Unsupported) => return Ok(log_out_without_ending(core, job).await),
        // Until the session has ended, nobody is told that it has: the client may try again.
        response => match answered(response?) {
            Ok(_) | Err(Failure::Backend(Code::NotFound)) => {}
            Err(failure) => return Err(failure),
        },
    }
    leave(core, job);
    Ok(Reply::LoggedOut)
}

/// The User Service ends no sessions: the tokens stay good until they expire.
async fn log_out_without_ending<B: Backend, P: PushSource>(core: &Core<B, P>, job: &Job) -> Reply {
    // From here on nothing is pushed any more, whatever the services answer.
    leave(core, job);
    if core.gateway.concessions.empty_route_unbinds {
        // Before the client is answered, so that what is sent to it from then on waits for its
        // return. Where it fails, it is tried again beside this.
        let _ = parting::take_route_away(core, job.user()).await;
    }
    let request = LogoutRequest {
        user_id: job.user(),
        token: String::new(),
    };
    if let Err(error) = core.backend.call::<method::Logout>(request).await {
        log::debug!(
            "logout of user {} was not taken by the service: {error}",
            job.user()
        );
    }
    Reply::LoggedOut
}

pub(super) async fn logout_all<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    core.ask::<method::EndAllSessions>(EndAllSessionsRequest {
        user_id: job.user(),
        session_id: job.session_id(),
    })
    .await?;
    leave(core, job);
    Ok(Reply::LoggedOut)
}

/// So long after a login by password may that password be changed.
const PASSWORD_FRESH_MS: u64 = 10 * 60_000;

pub(super) async fn password<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    new: &Secret<String>,
) -> Result<Reply, Failure> {
    let name = core
        .shard()
        .logged_in_by_password(job.key, PASSWORD_FRESH_MS);
    let name = name.ok_or(Failure::Refused(
        ErrorCode::Forbidden,
        "log in here with the present password first, then change it within 10 minutes",
    ))?;
    // It takes as long as a login, and has a place among those of its network and name.
    let admitted = admission::login(core, job, &name).await?;
    let identity = identity_of(job)?;
    let changed = core
        .ask::<method::ChangePassword>(ChangePasswordRequest {
            user_id: job.user(),
            new_password: new.expose().as_bytes().into(),
            login_session_id: identity.login_session.id,
            token_issued_ms: identity.login_session.issued_ms,
            session_epoch: identity.login_session.epoch,
            network: admitted.network,
        })
        .await;
    let response = match changed {
        Err(Failure::Backend(Code::Unauthenticated)) => return Err(SESSION_OVER),
        changed => changed?,
    };
    core.shard()
        .set_session_epoch(job.key, response.session_epoch);
    Ok(Reply::PasswordChanged)
}

/// Logs the connection out, which stays.
fn leave<B, P>(core: &Core<B, P>, job: &Job) {
    if !is_seeded(Mutation::LogoutKeepsLogin) {
        core.shard().log_out_in_place(job.key, true);
    }
}
