//! Tokens that say nothing: the User Service knows whose they are, where it issues such.
//!
//! Owns when it is asked. A token that is signed has three parts, and is never shown to a service.

use super::{Failure, auth::NOT_VALID};
use crate::{
    base::secret::Secret,
    contract::{
        backend::{Backend, CallError},
        bus::PushSource,
        methods::method,
    },
    flow::core::Core,
    proto::{Code, VerifyTokenRequest},
    token::{Grant, opaque},
};

/// Whether only a service can know what this token is.
pub(super) fn may_be(token: &str) -> bool {
    opaque::LENGTHS.contains(&token.len()) && !token.contains('.')
}

/// Whom the token logs in.
pub(super) async fn grant<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    token: &Secret<String>,
) -> Result<Grant, Failure> {
    let now = core.shard().now();
    let now_s = now.unix_ms / 1000;
    let known = &core.gateway.opaque_tokens;
    if let Some(grant) = known.get(token.expose(), now_s) {
        return grant.ok_or(NOT_VALID);
    }
    if !known.are_issued(now_s) {
        return Err(NOT_VALID);
    }
    let request = VerifyTokenRequest {
        token: token.expose().as_bytes().into(),
    };
    let (grant, until_s) = match core.ask::<method::VerifyToken>(request).await {
        Ok(response) if response.user_id > 0 => {
            let grant = Grant {
                user: response.user_id,
                session: Some(opaque::session(token.expose())),
                epoch: None,
                issued_s: u64::try_from(response.issued_s).unwrap_or(0),
            };
            (
                Some(grant),
                u64::try_from(response.good_until_s).unwrap_or(0),
            )
        }
        Ok(_) | Err(Failure::Backend(Code::Unauthenticated | Code::NotFound | Code::Invalid)) => {
            (None, 0)
        }
        Err(Failure::Call(CallError::Unsupported)) => {
            known.are_not_issued(now_s);
            return Err(NOT_VALID);
        }
        Err(failure) => return Err(failure),
    };
    known.keep(token.expose(), grant, (now_s, until_s));
    grant.ok_or(NOT_VALID)
}
