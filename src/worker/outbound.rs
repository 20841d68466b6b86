//! Outbound connections: the sockets a core opens itself, to backends and to Redis. Connecting, and
//! carrying bytes both ways until one side ends.
//!
//! Owns the sockets and who waits for each. They are in the core's epoll set beside its clients, so
//! that what backends answer is seen in the same turn as what clients say; the loop wakes the one
//! task that holds a socket. Knows nothing of what is said: that is the [`ConnectionHandler`]'s.
//! Everything that was said in a turn leaves in one `send`, since the task runs after those that
//! spoke. By TLS it is the same, once [`Outbound::secure`] has made the handshake.

mod tls;

use std::{
    cell::{Cell, RefCell},
    error::Error,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
    thread,
    time::Duration,
};

use futures_lite::FutureExt;
use rustix::{
    net::{RecvFlags, SendFlags, recv, send},
    pipe::{PipeFlags, pipe_with},
};
use rustls::{ClientConfig, pki_types::ServerName};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use self::tls::Tls;
use super::{
    poller::{self, Readiness, Source},
    timers::Timers,
};
use crate::base::send_buffer::ConnectionHandler;

/// How long connecting may take. Servers are near; one that is not there after this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without a sign from its host a connection counts as lost.
const DEAD_AFTER: Duration = Duration::from_secs(10);
/// What one read takes at most; one buffer of this size serves all such sockets of the core.
const READ_BYTES: usize = 64 * 1024;
/// Reads at a time, so that one flood does not keep the others waiting.
const READS_PER_POLL: usize = 4;

/// The sockets of one core that it opened itself, by who waits for each.
pub(super) struct OutboundConnections {
    set: Rc<OwnedFd>,
    timers: Rc<Timers>,
    sockets: RefCell<Slab<Waiting>>,
    next_generation: Cell<u32>,
    buffer: RefCell<Vec<u8>>,
}

/// Names a socket for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundKey {
    /// Index into the core's slab of them.
    pub slot: u32,
    /// Incremented with each socket.
    pub generation: u32,
}

struct Waiting {
    generation: u32,
    /// There is (or may be) something to read.
    readable: bool,
    /// The other side has closed, or the connection is broken: reading goes on until it says so,
    /// without another event.
    ending: bool,
    /// There is (or may be) room to write.
    writable: bool,
    waker: Option<Waker>,
}

impl OutboundConnections {
    /// None yet, in the epoll set of their core and with its timers.
    pub fn new(set: Rc<OwnedFd>, timers: Rc<Timers>) -> Rc<Self> {
        Rc::new(Self {
            set,
            timers,
            sockets: RefCell::default(),
            next_generation: Cell::default(),
            buffer: RefCell::new(vec![0; READ_BYTES]),
        })
    }

    /// The loop was told of a socket: wakes the task that holds it.
    pub(super) fn on_ready(&self, key: OutboundKey, readiness: Readiness) {
        let waker = {
            let mut sockets = self.sockets.borrow_mut();
            let Some(socket) = sockets
                .get_mut(key.slot as usize)
                .filter(|socket| socket.generation == key.generation)
            else {
                return;
            };
            socket.ending |= readiness.ending || readiness.broken;
            socket.readable |= readiness.readable || socket.ending;
            socket.writable |= readiness.writable || readiness.broken;
            socket.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn register<D: AsFd>(self: &Rc<Self>, descriptor: D) -> io::Result<Outbound<D>> {
        let mut sockets = self.sockets.borrow_mut();
        let entry = sockets.vacant_entry();
        let generation = self.next_generation.get();
        self.next_generation.set(generation.wrapping_add(1));
        let key = OutboundKey {
            slot: entry.key() as u32,
            generation,
        };
        poller::add(&self.set, &descriptor, Source::Outbound(key))?;
        entry.insert(Waiting {
            generation,
            readable: false,
            ending: false,
            writable: false,
            waker: None,
        });
        drop(sockets);
        Ok(Outbound {
            descriptor,
            key,
            tls: RefCell::default(),
            outbound: Rc::clone(self),
        })
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// Why that is not possible.
    pub async fn connect(self: &Rc<Self>, address: SocketAddr) -> io::Result<Outbound> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        // A host that vanished says nothing: silence is looked into, and data that nobody
        // acknowledges is given up.
        socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(DEAD_AFTER)
                .with_interval(DEAD_AFTER / 5),
        )?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        let connection = self.register(socket)?;
        let opened = async {
            poll_fn(|context| connection.poll_writable(context)).await;
            Ok::<(), io::Error>(())
        };
        let too_late = async {
            self.timers.sleep(CONNECT_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        opened.or(too_late).await?;
        if let Some(error) = connection.descriptor.take_error()? {
            return Err(error);
        }
        // Where nobody listens, a socket may be given that very port for its own and end up
        // connected to itself.
        if connection.descriptor.local_addr()?.as_socket() == Some(address) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(connection)
    }

    /// What `work` comes to, which may block and has a thread of its own.
    ///
    /// # Errors
    /// Where no thread or descriptor is free, or it panicked.
    pub async fn elsewhere<T: Send + 'static>(
        self: &Rc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (end, signal) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let end = self.register(end)?;
        let outcome = Arc::new(Mutex::new(None));
        let place = Arc::clone(&outcome);
        thread::Builder::new()
            .name("elsewhere".to_owned())
            .spawn(move || {
                // Closed last, whatever happens: that is what wakes the one who waits.
                let _signal = signal;
                let value = work();
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            })?;
        poll_fn(|context| end.poll_readable(context)).await;
        let value = outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        value.ok_or_else(|| io::Error::other("the thread panicked"))
    }
}

/// One open socket, or another descriptor that can be waited for.
pub struct Outbound<D = Socket> {
    descriptor: D,
    key: OutboundKey,
    tls: RefCell<Option<Tls>>,
    outbound: Rc<OutboundConnections>,
}

impl<D> Drop for Outbound<D> {
    fn drop(&mut self) {
        // Closing it takes it out of the epoll set.
        self.outbound
            .sockets
            .borrow_mut()
            .try_remove(self.key.slot as usize);
    }
}

impl Outbound {
    /// Carries bytes both ways until either side ends; says why, or `Ok` if our side closed.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(super) async fn carry(
        &self,
        handler: &impl ConnectionHandler,
    ) -> Result<(), Box<dyn Error>> {
        poll_fn(|context| {
            // Looked at in each case: with a peer that takes nothing, sending has no end.
            if handler.send_buffer().is_closed(context) {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(Err(error)) = self.poll_send(handler, context) {
                return Poll::Ready(Err(error));
            }
            for _ in 0..READS_PER_POLL {
                ready!(self.poll_receive(handler, context))?;
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Speaks TLS from now on, to who is to be `name`.
    ///
    /// # Errors
    /// Why that is not possible.
    pub async fn secure(
        &self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(), Box<dyn Error>> {
        *self.tls.borrow_mut() = Some(Tls::new(config, name)?);
        let handshake = poll_fn(|context| {
            while self.is_handshaking() {
                ready!(self.poll_flush(context))?;
                if self.is_handshaking() {
                    ready!(self.poll_read(context, |_| Err("it spoke unasked".into())))?;
                }
            }
            self.poll_flush(context)
        });
        let too_late = async {
            self.outbound.timers.sleep(HANDSHAKE_TIMEOUT).await;
            Err("no TLS handshake in time".into())
        };
        handshake.or(too_late).await
    }

    fn is_handshaking(&self) -> bool {
        let tls = self.tls.borrow();
        tls.as_ref().is_some_and(Tls::is_handshaking)
    }

    /// Sends what there is.
    fn poll_send(
        &self,
        handler: &impl ConnectionHandler,
        context: &Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error>>> {
        let buffer = handler.send_buffer();
        loop {
            ready!(self.poll_flush(context))?;
            if buffer.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match &mut *self.tls.borrow_mut() {
                Some(tls) => buffer.send(|unsent| tls.seal(unsent))?,
                None => {
                    ready!(self.poll_writable(context));
                    match buffer.send(|unsent| self.send(unsent)) {
                        Ok(()) | Err(rustix::io::Errno::INTR) => {}
                        Err(rustix::io::Errno::AGAIN) => self.is_full(),
                        Err(error) => return Poll::Ready(Err(error.into())),
                    }
                }
            }
        }
    }

    /// Sends what is encrypted and has not left.
    fn poll_flush(&self, context: &Context<'_>) -> Poll<Result<(), Box<dyn Error>>> {
        let mut tls = self.tls.borrow_mut();
        let Some(tls) = &mut *tls else {
            return Poll::Ready(Ok(()));
        };
        while tls.has_unsent() {
            ready!(self.poll_writable(context));
            match tls.send(|bytes| self.send(bytes)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_full(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        send(
            &self.descriptor,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    }

    /// There is no room to write.
    fn is_full(&self) {
        self.with_waiting(|waiting| waiting.writable = false);
    }

    fn poll_receive(
        &self,
        handler: &impl ConnectionHandler,
        context: &Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error>>> {
        self.poll_read(context, |bytes| handler.received(bytes))
    }

    /// Reads once, and hands what has come to `take`.
    fn poll_read(
        &self,
        context: &Context<'_>,
        take: impl FnMut(&[u8]) -> Result<(), Box<dyn Error>>,
    ) -> Poll<Result<(), Box<dyn Error>>> {
        ready!(self.poll_readable(context));
        let mut buffer = self.outbound.buffer.borrow_mut();
        match recv(&self.descriptor, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Poll::Ready(Err("the other side closed".into())),
            Ok((_, count)) => {
                if count < buffer.len() {
                    // A short read empties the socket, and what comes later comes with an event;
                    // but for an end that was told already.
                    self.with_waiting(|waiting| waiting.readable = waiting.ending);
                }
                Poll::Ready(self.take_in(&buffer[..count], context, take))
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.with_waiting(|waiting| waiting.readable = false);
                self.poll_receive_again(context)
            }
            Err(rustix::io::Errno::INTR) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Decrypts what has come, where it is encrypted, and answers what TLS has to answer.
    fn take_in(
        &self,
        come: &[u8],
        context: &Context<'_>,
        mut take: impl FnMut(&[u8]) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        let outcome = match &mut *self.tls.borrow_mut() {
            None => return take(come),
            Some(tls) => tls.receive(come, take),
        };
        // What does not leave now leaves when the socket has room: the task is woken.
        match self.poll_flush(context) {
            Poll::Ready(Err(error)) => outcome.and(Err(error)),
            _ => outcome,
        }
    }

    /// Nothing was there after all: waits for the next event.
    fn poll_receive_again(&self, context: &Context<'_>) -> Poll<Result<(), Box<dyn Error>>> {
        ready!(self.poll_readable(context));
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(context, |waiting| waiting.writable)
    }
}

impl<D> Outbound<D> {
    fn poll_readable(&self, context: &Context<'_>) -> Poll<()> {
        self.poll(context, |waiting| waiting.readable)
    }

    fn poll(&self, context: &Context<'_>, is_ready: impl Fn(&Waiting) -> bool) -> Poll<()> {
        self.with_waiting(|waiting| {
            if is_ready(waiting) {
                return Poll::Ready(());
            }
            match &mut waiting.waker {
                Some(waker) => waker.clone_from(context.waker()),
                empty => *empty = Some(context.waker().clone()),
            }
            Poll::Pending
        })
    }

    fn with_waiting<T>(&self, look: impl FnOnce(&mut Waiting) -> T) -> T {
        // The slot is this socket's until it is dropped.
        look(&mut self.outbound.sockets.borrow_mut()[self.key.slot as usize])
    }
}
