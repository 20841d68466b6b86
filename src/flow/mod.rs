//! What takes time: flows that call services for the sessions of one core.
//!
//! Each is an `async fn` over a [`Core`](core::Core) that reads from top to bottom. `commands` has
//! one file for each family of commands, `background` what a core does unasked.

pub mod background;
pub mod commands;
pub mod core;
pub mod known_users;
mod parting;
mod route_locks;
pub mod routes;
mod settle;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
