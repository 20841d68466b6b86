//! The listeners for clients: each bound once for every core.

use std::net::SocketAddr;

use crate::{
    base::error::StartupError,
    config::{
        Settings,
        settings::{Carrier, Listener as ListenerSettings},
    },
    worker::{
        listener::{self, Listener, SocketOptions},
        preface::Expected,
    },
};

/// Listeners that are bound.
pub(super) struct Listeners {
    /// Of each core, its share of each.
    pub(super) of_cores: Vec<Vec<Listener>>,
    /// What each is called and where it is; the first is the one named `line`.
    pub(super) addresses: Vec<(String, SocketAddr)>,
}

impl Listeners {
    /// Binds them for so many `cores`. One that nobody asked for is left out, with a warning, where
    /// its address is taken.
    pub(super) fn bind(
        settings: &Settings,
        cores: usize,
        options: &SocketOptions,
    ) -> Result<Self, StartupError> {
        let mut of_cores: Vec<Vec<Listener>> = (0..cores).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for listener in &settings.listeners {
            let bound = listener::bind_all(listener.address, &key_of(listener), cores, options);
            let (sockets, address) = match bound {
                Err(error) if listener.is_default => {
                    let (what, cause) = (error.what, error.cause);
                    log::warn!(
                        "{what}: {cause}; going on without the listener {:?}",
                        listener.name
                    );
                    continue;
                }
                bound => bound?,
            };
            addresses.push((listener.name.clone(), address));
            let expected = expected(listener);
            for (shares, socket) in of_cores.iter_mut().zip(sockets) {
                shares.push(Listener { socket, expected });
            }
        }
        assert!(!addresses.is_empty(), "the line listener is always there");
        Ok(Self {
            of_cores,
            addresses,
        })
    }
}

fn expected(listener: &ListenerSettings) -> Expected {
    let carries = |carrier| listener.carriers.contains(&carrier);
    Expected {
        proxy: listener.is_proxied,
        lines: carries(Carrier::Line),
        http: carries(Carrier::Http) || carries(Carrier::WebSocket),
    }
}

/// What sets its address.
pub(super) fn key_of(listener: &ListenerSettings) -> String {
    match listener.name.as_str() {
        "line" => "gateway_service.port or host".to_owned(),
        "web" => "web.listen".to_owned(),
        name => format!("listener.{name}.address"),
    }
}
