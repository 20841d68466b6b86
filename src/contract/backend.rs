//! The services as a command sees them: one call, one answer, whoever serves it.
//!
//! Owns the [`Backend`] trait, and why a call can fail. `service::embedded` calls the services in
//! this process, `rpc::client` those elsewhere.

use std::sync::Arc;

use crate::contract::{
    endpoints::Endpoints,
    methods::{Method, Response},
};

/// Why a call brought no answer. Tells whose side failed and whether the call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No instance serves this, or none can be reached. Nothing was done.
    #[error("no backend is available")]
    Unavailable,
    /// The deadline passed. Whether it was done is unknown.
    #[error("the backend did not answer in time")]
    Timeout,
    /// The way to the instance broke. Whether it was done is unknown, and repeating it would not be
    /// harmless.
    #[error("the backend was lost")]
    Lost,
    /// The backend or the way to it is full. Nothing was done.
    #[error("the backend is overloaded")]
    Overloaded,
    /// No instance offers this method.
    #[error("the backend does not offer this")]
    Unsupported,
    /// The answer made no sense, or the backend failed inside.
    #[error("the backend failed")]
    Internal,
}

/// One core's way to the services. Not `Send`: each core has its own.
pub trait Backend {
    /// Calls `M` and waits for its answer, at most until the implementation's deadline.
    ///
    /// An answer whose `result.code` is not `OK` is an answer, not an error of the call.
    fn call<M: Method>(
        &self,
        request: M::Request,
    ) -> impl Future<Output = Result<M::Response, CallError>>;

    /// Takes what came for it by the core's inbox.
    fn on_event(&self, event: BackendEvent);

    /// Tells the time in ms, many times a second; what is due now and then is done.
    fn advance(&self, now_ms: u64);

    /// Tells the time in µs, with each turn of the core, and ends the calls whose deadline has
    /// come. Deadlines are whole milliseconds: a call has all its time from the end of the
    /// millisecond it begins in, so none ends too early.
    fn expire_calls(&self, now_us: u64);

    /// When the next call's deadline comes, at the earliest; `None`: none is under way.
    fn next_deadline_ms(&self) -> Option<u64>;

    /// Whether, since this was last asked, a service was lost that may have stored messages without
    /// publishing them.
    fn pushes_in_doubt(&self) -> bool;
}

/// What other threads have to tell a core's backend.
#[derive(Debug)]
pub enum BackendEvent {
    /// A service in this process answered.
    Reply {
        /// The number the core gave the call.
        call_id: u64,
        /// The answer.
        response: Response,
    },
    /// The instances of services elsewhere have changed.
    Endpoints(Arc<Endpoints>),
}
