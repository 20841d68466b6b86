//! The tasks that hold a core's connections to backends.
//!
//! One connects, tells the backend so, carries bytes until the connection is lost, tells that, and
//! begins again.

use std::{error::Error, rc::Rc, time::Duration};

use super::Runtime;
use crate::{
    base::{
        back_off::BackOff,
        send_buffer::{ConnectionHandler, SharedSendBuffer},
    },
    metrics::outage::Outage,
    rpc::client::{Connection, Dial, Purpose, Remote, Server},
};

/// What starts the tasks that hold connections to servers.
pub fn dial(runtime: &Rc<Runtime>) -> Dial {
    let runtime = Rc::clone(runtime);
    Box::new(move |remote, server, purpose| {
        let (remote, server) = (Rc::clone(remote), Rc::clone(server));
        let tasks = &runtime.tasks;
        let runtime = Rc::clone(&runtime);
        match purpose {
            Purpose::Permanent | Purpose::Further => {
                tasks.spawn(keep(runtime, remote, server, purpose));
            }
            Purpose::Check => tasks.spawn(check(runtime, remote, server)),
        }
    })
}

/// Sees whether the server can be connected to.
async fn check(runtime: Rc<Runtime>, remote: Rc<Remote>, server: Rc<Server>) {
    if let Err(error) = runtime.outbound.connect(server.address).await {
        log::debug!("cannot connect to backend {}: {error}", server.address);
        remote.unreachable(&server);
        remote.refused(&server, &error);
    }
}

async fn keep(runtime: Rc<Runtime>, remote: Rc<Remote>, server: Rc<Server>, purpose: Purpose) {
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
        let was_open = serve_connection(&runtime, &handler, &outage).await;
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
            runtime.timers.sleep(pause).await;
        }
        if server.is_retired() {
            return;
        }
    }
}

/// One connection from its beginning to its end; says whether it was ever open.
async fn serve_connection(runtime: &Runtime, calls: &Calls<'_>, outage: &Outage) -> bool {
    let address = calls.server.address;
    let connection = match runtime.outbound.connect(address).await {
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
