//! The listeners for clients: each bound once for every core.

use std::{net::SocketAddr, sync::Arc};

use super::certificates::Watched;
use crate::{
    base::error::{ExitCode, StartupError},
    config::{
        Settings,
        settings::{Carrier, Listener as ListenerSettings},
    },
    tls::{Acceptor, Reload},
    worker::{
        listener::{self, Listener, SocketOptions},
        preface::{Expected, Security},
    },
};

/// Listeners that are bound.
pub(super) struct Listeners {
    /// Of each core, its share of each.
    pub(super) of_cores: Vec<Vec<Listener>>,
    /// What those with TLS begin connections with, each with the name of its listener.
    pub(super) acceptors: Watched,
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
        let (mut addresses, mut acceptors) = (Vec::new(), Watched::new());
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
            let acceptor = acceptor(listener)?;
            let name = format!("the listener {:?}", listener.name);
            acceptors.extend(acceptor.clone().map(|one| (name, one as Arc<dyn Reload>)));
            for (shares, socket) in of_cores.iter_mut().zip(sockets) {
                let acceptor = acceptor.clone();
                shares.push(Listener {
                    socket,
                    expected,
                    acceptor,
                });
            }
        }
        assert!(!addresses.is_empty(), "the line listener is always there");
        Ok(Self {
            of_cores,
            acceptors,
            addresses,
        })
    }
}

fn expected(listener: &ListenerSettings) -> Expected {
    let carries = |carrier| listener.carriers.contains(&carrier);
    Expected {
        proxy: listener.is_proxied,
        tls: match (&listener.tls, listener.is_tls_optional) {
            (None, _) => Security::Off,
            (Some(_), true) => Security::Optional,
            (Some(_), false) => Security::Required,
        },
        lines: carries(Carrier::Line),
        http: carries(Carrier::Http) || carries(Carrier::WebSocket),
    }
}

/// What a listener begins TLS connections with, if there are some.
pub(super) fn acceptor(listener: &ListenerSettings) -> Result<Option<Arc<Acceptor>>, StartupError> {
    let acceptor = listener.tls.clone().map(Acceptor::load).transpose();
    let acceptor = acceptor.map_err(|problem| {
        let what = format!("the listener {:?} cannot speak TLS", listener.name);
        StartupError::new(ExitCode::Preflight, what, problem, "")
    })?;
    Ok(acceptor.map(Arc::new))
}

/// What sets its address.
pub(super) fn key_of(listener: &ListenerSettings) -> String {
    match listener.name.as_str() {
        "line" => "gateway_service.port or host".to_owned(),
        "web" => "web.listen".to_owned(),
        name => format!("listener.{name}.address"),
    }
}
