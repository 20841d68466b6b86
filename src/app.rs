//! The composition root: chooses every implementation, starts every thread, and sees to their end.
//!
//! Every process starts by the same `bootstrap`. A gateway (`gateway`) serves alone (`embedded`) or
//! is one of many (`cluster`); `backend` is the other kind of process: the services themselves.

pub mod backend;
mod banner;
mod bootstrap;
mod certificates;
mod clock;
mod cluster;
mod cores;
pub mod doctor;
mod embedded;
mod fetch;
mod gateway;
mod issuers;
mod listeners;
mod options;
pub mod tokens;
mod user_journal;

use self::gateway::GatewayBootstrap;
use crate::{base::error::StartupError, config::settings::Settings};

/// Runs the gateway until it is told to stop and has drained. `may_be_new`: one that serves alone
/// begins with a new database, even where there must have been one.
///
/// # Errors
/// What keeps it from starting, or how it failed.
pub fn run(settings: Settings, may_be_new: bool) -> Result<(), StartupError> {
    if settings.is_cluster() {
        cluster::run(GatewayBootstrap::new(settings, cluster::conditions)?)
    } else {
        embedded::run(GatewayBootstrap::new(settings, |_| Vec::new())?, may_be_new)
    }
}
