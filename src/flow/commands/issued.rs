//! Whose account a token of an issuer stands for.
//!
//! Owns the way from a name to a user. An account that is made here has a password that nobody
//! knows: its user comes with tokens.

use super::{Failure, auth::NOT_VALID};
use crate::{
    base::id::UserId,
    contract::{backend::Backend, bus::PushSource, methods::method},
    flow::core::Core,
    proto::{Code, RegisterRequest, SearchRequest},
    token::{
        Grant,
        issuer::{IssuedGrant, Subject},
    },
};

/// Of the names that begin as one does, it is the first one; others look the same to some services.
const NAMES_LOOKED_AT: u32 = 20;

/// The grant of `issued`, once it is known whose it is.
pub(super) async fn grant<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    issued: IssuedGrant,
) -> Result<Grant, Failure> {
    let user = match issued.subject {
        Subject::User(user) => user,
        Subject::Name { name, create_users } => user_of(core, name, create_users).await?,
    };
    Ok(Grant {
        user,
        session: Some(issued.session),
        epoch: None,
        issued_s: issued.issued_s,
    })
}

async fn user_of<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    name: String,
    create_users: bool,
) -> Result<UserId, Failure> {
    if let Some(user) = user_named(core, &name).await? {
        return Ok(user);
    }
    if !create_users {
        return Err(NOT_VALID);
    }
    let made = core
        .ask::<method::Register>(RegisterRequest {
            username: name.as_bytes().into(),
            password: core.gateway.tokens.unknown_password(&name).into_bytes(),
            network: Vec::new(),
        })
        .await;
    match made {
        Ok(response) => Ok(response.user_id),
        // Somebody else was quicker, or the name looks like another one.
        Err(Failure::Backend(Code::AlreadyExists)) => {
            user_named(core, &name).await?.ok_or(NOT_VALID)
        }
        Err(failure) => Err(failure),
    }
}

/// The user of exactly this name.
async fn user_named<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    name: &str,
) -> Result<Option<UserId>, Failure> {
    let response = core
        .ask::<method::Search>(SearchRequest {
            prefix: name.to_owned(),
            limit: NAMES_LOOKED_AT,
        })
        .await?;
    let users = response.users.into_iter();
    let mut named = users.filter(|user| user.name == name);
    Ok(named.next().map(|user| user.user_id))
}
