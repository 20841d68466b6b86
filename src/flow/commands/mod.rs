//! The commands that ask a backend, one straight-line flow each, grouped by subject.
//!
//! A flow takes a [`Job`] and gives its reply. It borrows the shard only between awaits, and finds
//! the connection by its key each time: the client may have gone meanwhile. The same flows run on
//! glommio and, in tests, on any executor.

mod admission;
mod auth;
mod friend;
pub(super) mod group;
mod info;
mod issued;
pub mod message;
mod opaque;
mod send;
mod sessions;

use smallvec::smallvec;

use crate::{
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::{Answer, Method},
    },
    flow::core::Core,
    proto::Code,
    protocol::{error_code::ErrorCode, reply::Reply},
    session::job::{Asked, Call, Job, Replies},
};

/// Carries out `job`.
pub async fn run<B: Backend, P: PushSource>(core: &Core<B, P>, job: &mut Job) -> Replies {
    if let Some(token) = job.token.take() {
        match Box::pin(auth::identify(core, &token)).await {
            Ok(identity) => job.identity = Some(identity),
            Err(failure) => {
                let reply = failure.reply();
                return job.commands.iter().map(|_| reply.clone()).collect();
            }
        }
    }
    match job.commands.as_slice() {
        [command] => smallvec![run_one(core, job, command).await],
        _ => Box::pin(send::all(core, job)).await,
    }
}

async fn run_one<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    command: &Asked,
) -> Reply {
    // Logins are long flows: in a place of their own, they do not make every other command as
    // large.
    let outcome = match &command.call {
        Call::Register { user, password } => {
            Box::pin(auth::register(
                core,
                (job, command.to.dialect()),
                user,
                password,
            ))
            .await
        }
        Call::Login { user, password } => Box::pin(auth::login(core, job, user, password)).await,
        Call::Auth {
            token,
            user,
            last_event,
        } => Box::pin(auth::auth(core, job, token, (*user, *last_event))).await,
        Call::Refresh => sessions::refresh(core, job),
        Call::Logout => sessions::logout(core, job).await,
        Call::Password { new } => sessions::password(core, job, new).await,
        Call::LogoutAll => sessions::logout_all(core, job).await,
        Call::Chat { .. } | Call::GroupChat { .. } => send::one(core, job, command).await,
        Call::Pull { limit } => message::pull(core, job, *limit).await,
        Call::Ack { ids } => message::ack(core, job, ids).await,
        Call::AddFriend(friend) => friend::add(core, job, *friend).await,
        Call::RemoveFriend(friend) => friend::remove(core, job, *friend).await,
        Call::Friends => friend::list(core, job).await,
        Call::CreateGroup { name, description } => {
            group::create(core, job, name, description).await
        }
        Call::JoinGroup(group) => group::join(core, job, *group).await,
        Call::LeaveGroup(group) => group::leave(core, job, *group).await,
        Call::Groups => group::list(core, job).await,
        Call::GroupMembers {
            group,
            after,
            limit,
        } => group::members(core, job, *group, (*after, *limit)).await,
        Call::Who(user) => info::who(core, job, *user).await,
        Call::Profile(user) => info::profile(core, *user).await,
        Call::Search { prefix } => info::search(core, prefix).await,
        Call::WhoAmI => info::who_am_i(core, job).await,
    };
    outcome.unwrap_or_else(|failure| failure.reply())
}

/// Why a command was not done.
#[derive(Debug)]
pub(in crate::flow) enum Failure {
    /// The gateway itself says no.
    Refused(ErrorCode, &'static str),
    /// Come back in so many milliseconds.
    TooSoon(u64),
    /// A backend said no.
    Backend(Code),
    /// A backend said nothing.
    Call(CallError),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    /// Whether the service is away or failing, rather than that it said no.
    fn is_passing(&self) -> bool {
        match self {
            Self::Backend(code) => matches!(code, Code::Internal | Code::Unavailable),
            Self::Call(error) => *error != CallError::Unsupported,
            Self::Refused(..) | Self::TooSoon(_) => false,
        }
    }

    /// Whether it is certain that nothing was done, and nothing told but that it was not.
    fn changed_nothing(&self) -> bool {
        matches!(
            self,
            Self::Refused(..)
                | Self::TooSoon(_)
                | Self::Backend(Code::Unavailable | Code::Invalid)
                | Self::Call(
                    CallError::Unavailable | CallError::Overloaded | CallError::Unsupported
                )
        )
    }

    /// The same failure; where the service refused the arguments, in words that fit the command.
    fn or_refused(self, words: &'static str) -> Self {
        match self {
            Self::Backend(Code::Invalid) => Self::Refused(ErrorCode::BadArgument, words),
            other => other,
        }
    }

    /// What the client hears. Words of backends never reach it.
    fn reply(&self) -> Reply {
        let (code, words) = match self {
            Self::Refused(code, words) => (*code, *words),
            Self::TooSoon(retry_ms) => {
                return Reply::Error {
                    code: ErrorCode::RateLimited,
                    retry_ms: Some(*retry_ms),
                    words: "too many attempts".into(),
                };
            }
            Self::Backend(code) => match code {
                Code::Invalid => (ErrorCode::BadArgument, "the service refused this"),
                Code::NotFound => (ErrorCode::NotFound, "there is no such user or group"),
                Code::Unauthenticated => (ErrorCode::AuthFailed, "wrong user name or password"),
                Code::Forbidden => (ErrorCode::Forbidden, "this is for members only"),
                Code::AlreadyExists => (ErrorCode::UserExists, "this name is taken"),
                Code::Unavailable => (ErrorCode::Overloaded, "this cannot be taken in now"),
                Code::Conflict => (ErrorCode::Overloaded, "no free id was found, try again"),
                Code::Ok | Code::Internal => (ErrorCode::Internal, "the service failed"),
            },
            Self::Call(error) => match error {
                CallError::Unavailable => (
                    ErrorCode::BackendUnavailable,
                    "the service is not available",
                ),
                CallError::Lost => (
                    ErrorCode::BackendUnavailable,
                    "the service went away, and may have done it",
                ),
                CallError::Timeout => (ErrorCode::Timeout, "the service did not answer in time"),
                CallError::Overloaded => (ErrorCode::Overloaded, "the service is overloaded"),
                CallError::Unsupported => (ErrorCode::Unsupported, "no service offers this"),
                CallError::Internal => (ErrorCode::Internal, "the service failed"),
            },
        };
        Reply::error(code, words)
    }
}

impl<B: Backend, P> Core<B, P> {
    /// Calls `M`, and takes only an answer with code `OK` for an answer.
    async fn ask<M: Method>(&self, request: M::Request) -> Result<M::Response, Failure> {
        answered(self.backend.call::<M>(request).await?)
    }
}

/// The response, if its code is `OK`.
fn answered<R: Answer>(response: R) -> Result<R, Failure> {
    match response.code() {
        Code::Ok => Ok(response),
        code => Err(Failure::Backend(code)),
    }
}

/// Users and messages have positive numbers, or the answer is a broken one.
fn check_numbers(numbers: impl IntoIterator<Item = i64>) -> Result<(), Failure> {
    if numbers.into_iter().all(|number| number > 0) {
        Ok(())
    } else {
        Err(Failure::Backend(Code::Internal))
    }
}

/// What of an answer names a group. A wrong number, which MPIM gives every group that is new, is no
/// reason to keep its members out: it is left out and counted.
fn with_numbers<T, B, P>(
    core: &Core<B, P>,
    mut items: Vec<T>,
    number: impl Fn(&T) -> i64,
) -> Vec<T> {
    let before = items.len();
    items.retain(|item| number(item) > 0);
    let wrong = before - items.len();
    if wrong > 0 {
        core.shard()
            .metrics()
            .backend_bad_numbers_total
            .add(wrong as u64);
    }
    items
}
