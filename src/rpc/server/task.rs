//! A connection with its socket: the task that moves bytes.
//!
//! Owns the order of one run: take what the services answered, write, read, until neither goes on.
//! So all replies that became ready together leave in one write, and all calls that came together
//! are taken from one read. Decides nothing about calls.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep, timeout},
};

use super::{Held, LIMITS, Shared, connection::Connection};
use crate::{
    base::close::LINGER_MS,
    contract::methods::{Request, Response},
    handoff::task_queue::TaskQueue,
    machine::unix_time::unix_ms,
    rpc::wire::WireError,
    service::{Call, ReplySink, ServiceClient},
    tls::stream::Stream,
};

/// What one read takes at most; a gateway's calls are small, so this is hundreds of them.
const READ_BYTES: usize = 64 * 1024;
/// How long a peer may leave its replies unread or a call half sent, however much of it comes
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may say nothing while nothing is under way: gateways ask now and then
/// whether we are there.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// So much of a call may always wait for its rest; what is beyond must find room among that of all
/// others.
const HALF_SENT_FREE_BYTES: usize = 8 * 1024;

thread_local! {
    /// One for all connections of the thread: nothing stays in it from one run to the next.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// An answer and the number of its call.
type Answered = (u64, Response);

impl ReplySink for TaskQueue<Answered> {
    fn complete(&self, replies: Vec<Answered>) {
        self.push_all(replies);
    }
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The peer has closed it, and everything it asked is answered.
    #[error("closed by the peer")]
    Closed,
    /// The process is going down, and everything that was taken is answered.
    #[error("drained")]
    Drained,
    /// What came was no call.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The peer neither read nor wrote although it should have.
    #[error("stalled for {PATIENCE:?}")]
    Stalled,
    /// Nothing came, and nothing was under way.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// It showed no certificate of the cluster, or none at all.
    #[error("no TLS of this cluster: {0}")]
    Handshake(io::Error),
    /// Too much of calls that are not whole is held already.
    #[error("a half-sent call, and no room beside those of others")]
    HalfSent,
    /// The connection broke.
    #[error("{0}")]
    Lost(#[from] io::Error),
}

/// See the module's description. As a future it is done when the connection has ended.
pub(super) struct ConnectionTask {
    stream: Stream,
    connection: Connection,
    services: ServiceClient,
    /// What the services answered and the connection has not taken: no more than it has calls under
    /// way.
    replies: Arc<TaskQueue<Answered>>,
    batch: VecDeque<Answered>,
    /// Ends when the peer has not read for too long.
    unread: Option<Pin<Box<Sleep>>>,
    /// Ends when the call that came after so many whole ones was not finished for too long.
    unfinished: Option<(u64, Pin<Box<Sleep>>)>,
    /// Ends when nothing has been under way for too long.
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    place: Held,
    peer_has_closed: bool,
    is_draining: bool,
    shared: Arc<Shared>,
}

impl ConnectionTask {
    /// Over a connected stream.
    pub(super) fn new(
        stream: Stream,
        connection: Connection,
        services: ServiceClient,
        shared: Arc<Shared>,
        place: Held,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            connection,
            services,
            replies: Arc::new(TaskQueue::new(LIMITS.calls, |_| 1)),
            batch: VecDeque::new(),
            unread: None,
            unfinished: None,
            idle: Box::pin(sleep(idle_timeout)),
            idle_timeout,
            place,
            peer_has_closed: false,
            is_draining: false,
            shared,
        }
    }

    /// No further call is taken; what is under way is answered.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.connection.stop();
    }

    /// Ends the sending side and waits a little for the peer to do the same, so that no reply is
    /// lost.
    pub(super) async fn linger(mut self) {
        let close = async {
            std::future::poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context))
                .await?;
            loop {
                let read = std::future::poll_fn(|context| {
                    read_some(&mut self.stream, context, |bytes| bytes.len())
                });
                if read.await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // Whoever does not close by then, or closed already, has lost nothing by our haste.
        let _ = timeout(Duration::from_millis(LINGER_MS), close).await;
    }

    fn take_answers(&mut self, context: &Context<'_>) {
        self.replies
            .take(usize::MAX, &mut self.batch, context.waker());
        for (number, response) in self.batch.drain(..) {
            self.connection.complete(number, &response);
        }
    }

    /// Hands bytes to the connection and its calls to the services.
    #[allow(
        clippy::result_large_err,
        reason = "the connection goes on with the request itself"
    )]
    fn receive(&mut self, bytes: &[u8]) -> Result<(), End> {
        let (services, replies) = (&self.services, &self.replies);
        let now = Instant::now();
        let mut submit = |call_id: u64, request: Request, timeout_ms: u32| {
            let waits = (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms.into()));
            let call = Call {
                request,
                call_id,
                sink: Arc::clone(replies) as _,
                deadline: waits.and_then(|waits| now.checked_add(waits)),
            };
            services.submit(call).map_err(|call| call.request)
        };
        let received = self.connection.receive(bytes, unix_ms(), &mut submit);
        if let Some(bad_call) = self.connection.take_bad_call() {
            self.shared.report_bad_call(&bad_call);
        }
        received?;
        let beyond = self
            .connection
            .half_sent_bytes()
            .saturating_sub(HALF_SENT_FREE_BYTES);
        if self.place.hold(beyond) {
            Ok(())
        } else {
            Err(End::HalfSent)
        }
    }

    /// Writes what there is to write; whether any of it left.
    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut wrote = false;
        while !self.connection.output().is_empty() {
            let output = self.connection.output();
            match Pin::new(&mut self.stream).poll_write(context, output) {
                Poll::Ready(Ok(0)) => return Err(End::Lost(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.connection.consume(count),
                Poll::Ready(Err(error)) => return Err(End::Lost(error)),
                Poll::Pending => break,
            }
            wrote = true;
        }
        // What has not left by then leaves when the socket can: this task is woken.
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(Err(error)) => Err(End::Lost(error)),
            _ => Ok(wrote),
        }
    }

    /// Takes the calls that waited for room, else reads once; whether there was anything.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if self.connection.can_go_on() {
            self.receive(&[])?;
            return Ok(true);
        }
        if self.peer_has_closed || !self.connection.wants_input() {
            return Ok(false);
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut space = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(context, &mut space) {
                Poll::Pending => Ok(false),
                Poll::Ready(Err(error)) => Err(End::Lost(error)),
                Poll::Ready(Ok(())) if space.filled().is_empty() => {
                    self.peer_has_closed = true;
                    Ok(false)
                }
                Poll::Ready(Ok(())) => {
                    self.receive(space.filled())?;
                    Ok(true)
                }
            }
        })
    }

    fn run_once(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        self.take_answers(context);
        let (mut has_written, mut has_read) = (false, false);
        loop {
            let wrote = self.write(context)?;
            let read = self.read(context)?;
            if !wrote && !read {
                break;
            }
            has_written |= wrote;
            has_read |= read;
        }
        assert!(self.batch.is_empty(), "what was answered is passed on");
        if self.is_draining && self.connection.is_done() {
            return Err(End::Drained);
        }
        if self.peer_has_closed && self.connection.is_done() {
            return Err(End::Closed);
        }
        self.watch_for_stall(context, has_written)?;
        self.watch_for_silence(context, has_written || has_read)
    }

    /// Ends a connection whose peer does not read, or does not finish a call. A byte now and then
    /// finishes nothing.
    fn watch_for_stall(&mut self, context: &mut Context<'_>, has_written: bool) -> Result<(), End> {
        if self.connection.output().is_empty() || has_written {
            self.unread = None;
        }
        if !self.connection.output().is_empty() {
            let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            if unread.as_mut().poll(context).is_ready() {
                return Err(End::Stalled);
            }
        }
        assert_eq!(
            self.unread.is_some(),
            !self.connection.output().is_empty(),
            "what is unread is timed"
        );
        if !self.connection.is_mid_call() {
            self.unfinished = None;
            return Ok(());
        }
        let calls_taken = self.connection.calls_taken();
        let same = self
            .unfinished
            .take()
            .filter(|(before, _)| *before == calls_taken);
        let (_, wait) = self
            .unfinished
            .insert(same.unwrap_or_else(|| (calls_taken, Box::pin(sleep(PATIENCE)))));
        match wait.as_mut().poll(context) {
            Poll::Ready(()) => Err(End::Stalled),
            Poll::Pending => Ok(()),
        }
    }

    /// Ends a connection over which nothing goes, so that it takes nobody's place.
    fn watch_for_silence(&mut self, context: &mut Context<'_>, has_moved: bool) -> Result<(), End> {
        if has_moved || !self.connection.is_done() {
            let until = tokio::time::Instant::now() + self.idle_timeout;
            self.idle.as_mut().reset(until);
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Err(End::Idle(self.idle_timeout)),
            Poll::Pending => Ok(()),
        }
    }
}

impl Future for ConnectionTask {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        match self.run_once(context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }
}

/// One read into the thread's buffer, looked at by `take`.
fn read_some<T>(
    stream: &mut Stream,
    context: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut space = ReadBuf::new(buffer);
        Pin::new(stream)
            .poll_read(context, &mut space)
            .map_ok(|()| take(space.filled()))
    })
}
