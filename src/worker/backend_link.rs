//! The tasks that hold a core's connections to backends.
//!
//! One connects, tells the backend so, carries bytes until the connection is lost, tells that, and
//! begins again.

use std::{error::Error, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use super::{Runtime, outbound::Outbound};
use crate::{
    base::{
        back_off::BackOff,
        send_buffer::{ConnectionHandler, SharedSendBuffer},
    },
    metrics::outage::Outage,
    rpc::client::{Connection, Dial, Purpose, Remote, Server},
    tls::cluster::Membership,
};

/// What starts the tasks that hold connections to servers; by TLS, where `membership` is there.
pub fn dial(runtime: &Rc<Runtime>, membership: Option<Arc<Membership>>) -> Dial {
    let dialer = Rc::new(Dialer {
        runtime: Rc::clone(runtime),
        membership,
    });
    Box::new(move |remote, server, purpose| {
        let (remote, server) = (Rc::clone(remote), Rc::clone(server));
        let (tasks, dialer) = (&dialer.runtime.tasks, Rc::clone(&dialer));
        match purpose {
            Purpose::Permanent | Purpose::Further => {
                tasks.spawn(keep(dialer, remote, server, purpose));
            }
            Purpose::Check => tasks.spawn(check(dialer, remote, server)),
        }
    })
}

/// What all connections to servers begin with.
struct Dialer {
    runtime: Rc<Runtime>,
    membership: Option<Arc<Membership>>,
}

impl Dialer {
    /// Connects to the server at `address`, which is to belong to the same cluster.
    async fn connect(
        &self,
        address: SocketAddr,
        remote: &Remote,
    ) -> Result<Outbound, Box<dyn Error>> {
        let connection = self.runtime.outbound.connect(address).await?;
        if let Some(membership) = &self.membership {
            let name = address.ip().into();
            let secured = connection.secure(membership.client(), name).await;
            secured.inspect_err(|_| remote.handshake_failed())?;
        }
        Ok(connection)
    }
}

/// Sees whether the server can be connected to.
async fn check(dialer: Rc<Dialer>, remote: Rc<Remote>, server: Rc<Server>) {
    if let Err(error) = dialer.connect(server.address, &remote).await {
        log::debug!("cannot connect to backend {}: {error}", server.address);
        remote.unreachable(&server);
        remote.refused(&server, &error);
    }
}

async fn keep(dialer: Rc<Dialer>, remote: Rc<Remote>, server: Rc<Server>, purpose: Purpose) {
    let mut back_off = BackOff::connecting(remote.random());
    let mut connecting = true;
    let outage = Outage::default();
    loop {
        let connection = remote.opening(&server, connecting, purpose);
        let handler = Calls {
            remote: &remote,
            server: &server,
            connection: &connection,
        };
        let was_open = serve_connection(&dialer, &handler, &outage).await;
        remote.lost(&server, &connection, was_open);
        if purpose != Purpose::Permanent || server.is_retired() {
            return;
        }
        // One that was of use and is lost may be back at once; one that cannot be reached, or only
        // hangs up, is spared.
        connecting = connection.was_useful();
        if connecting {
            back_off.reset();
        } else {
            let pause = Duration::from_millis(back_off.next_ms());
            dialer.runtime.timers.sleep(pause).await;
        }
        if server.is_retired() {
            return;
        }
    }
}

/// One connection from its beginning to its end; says whether it was ever open.
async fn serve_connection(dialer: &Dialer, calls: &Calls<'_>, outage: &Outage) -> bool {
    let address = calls.server.address;
    let connection = match dialer.connect(address, calls.remote).await {
        Ok(connection) => connection,
        Err(error) => {
            calls.remote.refused(calls.server, &error);
            if outage.report(&error) {
                log::warn!("cannot connect to backend {address}: {error}; trying again");
            }
            return false;
        }
    };
    outage.end();
    if !calls.remote.opened(calls.server, calls.connection) {
        return false;
    }
    match connection.carry(calls).await {
        Ok(()) => log::debug!("closed a connection to backend {address}"),
        Err(error) => log::info!("lost a connection to backend {address}: {error}"),
    }
    true
}

struct Calls<'a> {
    remote: &'a Remote,
    server: &'a Server,
    connection: &'a Connection,
}

impl ConnectionHandler for Calls<'_> {
    fn send_buffer(&self) -> &SharedSendBuffer {
        &self.connection.send_buffer
    }

    fn received(&self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        Ok(self.remote.received(self.server, self.connection, bytes)?)
    }
}
