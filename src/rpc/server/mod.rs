//! The answering end of calls: `im-gateway backend` towards its gateways.
//!
//! Owns the listener for calls, a task per connection (`task`, with its rules in `connection`), and
//! the way of the answers from the store's thread (`handoff::task_queue`). Never looks into a
//! request beyond its kind: what is asked goes to the services as it is. What calls and replies are
//! in bytes is the wire's ([`rpc::wire`](super::wire)). Everything runs on the one thread that also
//! runs [`crate::control`].
//!
//! ```text
//! gateway ── call ──▶ task ──▶ ServiceClient ──▶ store thread ── replies ──▶ task ── reply ──▶ gateway
//!                                                      └────── publisher ──▶ Redis
//! ```

mod connection;
#[cfg(test)]
mod live_tests;
mod places;
mod task;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use log::{debug, warn};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::{
    connection::{BadCallReport, Connection, Limits, Offer},
    places::{Place, Places},
};
use crate::{
    base::accept_pause::AcceptPause,
    contract::methods::{BadCall, Service},
    limits::{LogBudget, Rate},
    metrics::{self, server::ServerRefusal},
    rpc::server::task::{ConnectionTask, End, IDLE},
    service::{PAGE_BYTES, ServiceClient},
    tls::{cluster::Membership, stream::Stream},
};

/// Connections at one time: each core of each gateway has one, or a few dozen where it speaks the
/// classic form.
pub const CONNECTIONS_MAX: usize = 4096;

/// What one connection may have under way.
const LIMITS: Limits = Limits {
    // Four times the longest line a gateway takes, so whatever it may rightly send.
    args_bytes: 4 * 1024 * 1024,
    // A core asks once per session at a time; past this the store is behind anyway, and waiting in
    // the socket is as good.
    calls: 8192,
    calls_bytes: 8 * 1024 * 1024,
    // A full page of an inbox, several times over.
    unsent_bytes: 8 * 1024 * 1024,
    // Some fifty pages: a core that fetches for so many users at once is served no faster by more
    // of them.
    replies_bytes: 32 * 1024 * 1024,
    page_bytes: PAGE_BYTES,
};
/// What calls that are not whole yet may hold, of all connections together: sixteen of the longest.
const HALF_SENT_BYTES: usize = 64 * 1024 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which TCP asks whether the peer is there, how often and how many times: a dead one
/// is gone in a minute.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);
/// Lines a misbehaving peer may bring about in the log.
const WARNINGS: Rate = Rate {
    per_second: 1,
    burst: 10,
};

/// The server of calls.
pub struct Server {
    offer: Offer,
    services: ServiceClient,
    gateways: Gateways,
    idle_timeout: Duration,
    membership: Option<Arc<Membership>>,
    shared: Arc<Shared>,
}

/// Tells the addresses that gateways have now; `None`: that is not known.
pub type Gateways = Box<dyn Fn() -> Option<Arc<HashSet<IpAddr>>> + Send + Sync>;

/// What all connections of a server use.
struct Shared {
    metrics: Arc<metrics::Server>,
    /// The log of what peers did wrong, and since when its time counts.
    warnings: Mutex<LogBudget>,
    started: Instant,
    places: Mutex<Places>,
}

impl Server {
    /// A server that offers `services`, to at most `max_connections` connections, half of which are
    /// for `gateways` where it is known who they are.
    pub fn new(
        services: &[Service],
        max_connections: usize,
        client: ServiceClient,
        gateways: Gateways,
        metrics: Arc<metrics::Server>,
    ) -> Self {
        assert!(max_connections > 0, "nobody would be served");
        let max_connections = max_connections.min(CONNECTIONS_MAX);
        Self {
            offer: Offer::of(services),
            services: client,
            gateways,
            idle_timeout: IDLE,
            membership: None,
            shared: Arc::new(Shared {
                metrics,
                warnings: Mutex::new(LogBudget::new(WARNINGS)),
                started: Instant::now(),
                places: Mutex::new(Places::new(max_connections, HALF_SENT_BYTES)),
            }),
        }
    }

    /// The same by TLS, to who belongs to the same cluster, where `membership` is there.
    pub fn secured(mut self, membership: Option<Arc<Membership>>) -> Self {
        self.membership = membership;
        self
    }

    /// Serves on `listener` until `stop` is fulfilled or dropped; then takes no further connection
    /// or call, answers what is under way, and returns once every connection has ended.
    ///
    /// # Errors
    /// A listener that the runtime cannot use.
    pub async fn run(
        self,
        listener: std::net::TcpListener,
        mut stop: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (drain, draining) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut accept_pause = AcceptPause::default();
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        accept_pause.accepted();
                        if let Some(admitted) = self.admit(stream, peer) {
                            tasks.spawn(serve(admitted, draining.clone()));
                        }
                    }
                    Err(error) => {
                        if let Some(pause) = accept_pause.failed(&error) {
                            if pause.is_first {
                                warn!("cannot accept connections for calls: {error}; trying again with pauses");
                            }
                            sleep(Duration::from_millis(pause.ms)).await;
                        }
                    }
                },
            }
        }
        drop(listener);
        drain.send_replace(true);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Admitted> {
        let gateways = (self.gateways)();
        let place = match Held::take(&self.shared, peer.ip(), gateways.as_deref()) {
            Ok(place) => place,
            Err((refusal, open)) => {
                self.shared.metrics.closed(refusal);
                let why = match refusal {
                    ServerRefusal::PerAddress => "its address has a quarter of all",
                    ServerRefusal::Strangers => "the rest is for registered gateways",
                    _ => "there are no more",
                };
                self.shared.say(|| {
                    format!("no place for a connection from {peer}: {open} are open, {why}")
                });
                return None;
            }
        };
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE));
        if let Err(error) = prepared {
            debug!("calls from {peer}: {error}");
            return None;
        }
        Some(Admitted {
            stream,
            peer,
            tls: self
                .membership
                .as_ref()
                .map(|membership| membership.server()),
            connection: Connection::new(self.offer, LIMITS, Arc::clone(&self.shared.metrics)),
            services: self.services.clone(),
            shared: Arc::clone(&self.shared),
            place,
            idle_timeout: self.idle_timeout,
        })
    }
}

/// A connection that has a place, and has not said anything.
struct Admitted {
    stream: TcpStream,
    peer: SocketAddr,
    /// What it has to speak TLS by, if it has to.
    tls: Option<Arc<ServerConfig>>,
    connection: Connection,
    services: ServiceClient,
    shared: Arc<Shared>,
    place: Held,
    idle_timeout: Duration,
}

impl Admitted {
    /// Makes its TLS handshake, where there has to be one.
    async fn begin(self) -> Result<ConnectionTask, End> {
        let stream = match self.tls {
            None => Stream::Plain(self.stream),
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(self.stream);
                let in_time = timeout(HANDSHAKE_TIMEOUT, handshake).await;
                let stream = in_time
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(End::Handshake)?;
                Stream::Tls(Box::new(stream.into()))
            }
        };
        Ok(ConnectionTask::new(
            stream,
            self.connection,
            self.services,
            self.shared,
            self.place,
            self.idle_timeout,
        ))
    }
}

/// A connection's place, given back when it is dropped.
struct Held {
    place: Place,
    shared: Arc<Shared>,
}

impl Held {
    /// A place, or why there is none and how many are open.
    fn take(
        shared: &Arc<Shared>,
        address: IpAddr,
        gateways: Option<&HashSet<IpAddr>>,
    ) -> Result<Self, (ServerRefusal, usize)> {
        let mut places = shared.places();
        let place = places
            .admit(address, gateways)
            .map_err(|refusal| (refusal, places.open()))?;
        drop(places);
        Ok(Self {
            place,
            shared: Arc::clone(shared),
        })
    }

    /// So many bytes of a call that is not whole are held; `false`: there is no room for them.
    fn hold(&mut self, bytes: usize) -> bool {
        self.shared.places().hold(&mut self.place, bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.places().release(&mut self.place);
    }
}

/// Counts a connection for as long as it is open, however it ends.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.metrics.connections.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

async fn serve(admitted: Admitted, mut draining: watch::Receiver<bool>) {
    let (shared, peer) = (Arc::clone(&admitted.shared), admitted.peer);
    let _counted = Counted::new(&shared);
    let begun = tokio::select! {
        biased;
        begun = admitted.begin() => begun,
        // It has asked nothing that could be answered.
        () = told(&mut draining) => return,
    };
    let mut task = match begun {
        Ok(task) => task,
        Err(end) => return shared.ended(peer, &end),
    };
    let end = tokio::select! {
        biased;
        end = &mut task => end,
        () = told(&mut draining) => {
            task.drain();
            (&mut task).await
        }
    };
    shared.ended(peer, &end);
    if matches!(end, End::Drained) {
        task.linger().await;
    }
}

/// Waits for the order to drain; whoever could give it no more wants the same.
async fn told(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

impl Shared {
    /// Counts how a connection of `peer` ended, and says it where somebody should know.
    fn ended(&self, peer: SocketAddr, end: &End) {
        let refusal = match end {
            End::Wire(_) => ServerRefusal::Framing,
            End::Stalled => ServerRefusal::Stalled,
            End::HalfSent => ServerRefusal::HalfSent,
            End::Handshake(_) => ServerRefusal::Handshake,
            End::Idle(_) => {
                self.metrics.closed(ServerRefusal::Idle);
                return debug!("calls from {peer}: {end}");
            }
            End::Closed | End::Lost(_) | End::Drained => {
                return debug!("calls from {peer}: {end}");
            }
        };
        self.metrics.closed(refusal);
        self.say(|| format!("calls from {peer}: {end}; the connection is closed"));
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a call that could not be answered as it should.
    fn report_bad_call(&self, bad_call: &BadCallReport) {
        let BadCallReport {
            problem,
            service,
            method,
        } = bad_call;
        self.say(|| match problem {
            BadCall::UnknownMethod => {
                format!("a call of {service:?}.{method:?}, which is not offered here")
            }
            BadCall::Malformed => {
                format!("a call of {service:?}.{method:?} with arguments that do not parse")
            }
        });
    }

    /// Logs what a peer did wrong, unless there was much of that lately: any peer can bring it
    /// about as often as it likes.
    fn say(&self, words: impl FnOnce() -> String) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        match warnings.take(now_ms) {
            None => {}
            Some(0) => warn!("{}", words()),
            Some(left_out) => warn!("{} (left out before: {left_out})", words()),
        }
    }
}
