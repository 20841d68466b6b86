//! The publisher's connection to Redis: made, kept, and made again.
//!
//! Owns the pauses between attempts, which commands are not answered, and when a `CATCH_UP` is due;
//! the connection is prepared once the first of those is answered. A connection on which one
//! command has not been answered in time is given up: a Redis that hangs is as good as none.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use log::{info, warn};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

use super::{packing::Packer, queue::Commit};
use crate::{
    base::{back_off::BackOff, send_buffer::SendBuffer},
    bus::redis::{
        connection::{Connection, ConnectionError, Due, Received, answer},
        credentials::Credentials,
        resp::ProtocolError,
        target::{Failures, Target},
    },
    config::settings::Redis,
    contract::push_mac::PushKey,
    handoff::task_queue::TaskQueue,
    machine::random_seed::random,
    metrics::{self, server::PublishDrop},
    tls::{client::Connector, stream::Stream},
};

/// How long one address may take to be connected to: the next one may be nearer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A `CATCH_UP` has every gateway ask the store for every user, so while pushes get lost on a
/// connection there is no more than one in this time.
const CATCH_UP_PAUSE_MS: u64 = 1_000;
/// Bytes packed and not written at most; what is beyond waits in the queue, which has the bound.
const UNSENT_BYTES: usize = 1024 * 1024;
/// Answers are some bytes each: numbers, or errors in a few words.
const READ_BYTES: usize = 4096;
const ANSWER_MAX_BYTES: usize = 4096;
/// How long the refusal of one push stands for the present state.
const REFUSAL_LASTS_MS: u64 = 30_000;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// Nothing more will be published, and all is answered.
    #[error("finished")]
    Finished,
    #[error("{0}")]
    Lost(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("{0}")]
    Dead(#[from] ConnectionError),
}

/// Keeps a connection and publishes what comes by the queue, until that is finished.
pub(super) async fn run(
    redis: Redis,
    push_key: Option<Arc<PushKey>>,
    queue: Arc<TaskQueue<Commit>>,
    metrics: Arc<metrics::Server>,
) {
    let mut back_off = BackOff::connecting(random());
    loop {
        let Some(reason) = attempt(&redis, &push_key, &queue, &metrics, &mut back_off).await else {
            return;
        };
        if metrics.publisher_outage.report(&reason) {
            let address = &redis.address;
            warn!(
                "no pushes through Redis at {address}: {reason}; gateways fetch them once it is back"
            );
        }
        tokio::select! {
            biased;
            () = finished(&queue) => return,
            () = sleep(Duration::from_millis(back_off.next_ms())) => {}
        }
    }
}

/// Tries one address after the other until one takes pushes, and stays with that one until it is
/// lost. Why it is over; `None`: nothing more will be published.
async fn attempt(
    redis: &Redis,
    push_key: &Option<Arc<PushKey>>,
    queue: &TaskQueue<Commit>,
    metrics: &metrics::Server,
    back_off: &mut BackOff,
) -> Option<String> {
    let target = tokio::select! {
        biased;
        () = finished(queue) => return None,
        target = look_up(redis) => match target {
            Ok(target) => target,
            Err(reason) => return Some(reason),
        },
    };
    let mut failures = Failures::default();
    for address in target.addresses {
        let stream = tokio::select! {
            biased;
            () = finished(queue) => return None,
            stream = connect(address, target.tls.as_ref()) => stream,
        };
        let end = match stream {
            Ok(stream) => {
                let credentials = target.credentials.as_ref();
                let mut session =
                    Session::new(stream, credentials, push_key.clone(), queue, metrics);
                let end = (&mut session).await;
                if session.connection.was_ready() {
                    back_off.reset();
                    return (!matches!(end, End::Finished)).then(|| end.to_string());
                }
                end
            }
            Err(error) => End::Lost(error),
        };
        if matches!(end, End::Finished) {
            return None;
        }
        failures.add(address, end);
    }
    Some(failures.to_string())
}

/// The resolver and the disk may take long: they are waited for elsewhere.
async fn look_up(redis: &Redis) -> Result<Target, String> {
    if let Some(target) = Target::at_hand(redis) {
        return Ok(target);
    }
    let redis = redis.clone();
    tokio::task::spawn_blocking(move || Target::look_up(&redis))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

async fn finished(queue: &TaskQueue<Commit>) {
    poll_fn(|context| match queue.is_finished(context.waker()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

async fn connect(address: SocketAddr, tls: Option<&Connector>) -> io::Result<Stream> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Stream::Plain(stream));
    };
    let handshake = TlsConnector::from(tls.config()).connect(tls.name(), stream);
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| io::Error::other("no TLS handshake in time"))??;
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// What an answer is awaited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    CatchUp,
    Publish,
    Ping,
}

/// Commands of one kind that were packed together.
struct PendingCommands {
    command: Command,
    count: usize,
    /// Where they end in all that is sent over this connection.
    end: u64,
    /// When the last of their bytes left; as long as some have not, when any did, and before that,
    /// when they were packed.
    since_ms: u64,
}

/// One connection. As a future it is done when the connection has ended.
struct Session<'a> {
    stream: Stream,
    queue: &'a TaskQueue<Commit>,
    metrics: &'a metrics::Server,
    packer: Packer,
    commits: VecDeque<Commit>,
    output: SendBuffer,
    /// How many bytes have left over this connection.
    sent: u64,
    connection: Connection,
    pending: VecDeque<PendingCommands>,
    is_finished: bool,
    /// Pushes got lost since the last `CATCH_UP`.
    owes_catch_up: bool,
    caught_up_ms: u64,
    /// When a push was refused last.
    refused_ms: Option<u64>,
    last_heard_ms: u64,
    /// The zero of all times here.
    epoch: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Session<'a> {
    fn new(
        stream: Stream,
        credentials: Option<&Credentials>,
        push_key: Option<Arc<PushKey>>,
        queue: &'a TaskQueue<Commit>,
        metrics: &'a metrics::Server,
    ) -> Self {
        let epoch = Instant::now();
        let mut session = Self {
            stream,
            queue,
            metrics,
            packer: Packer::new(push_key),
            commits: VecDeque::new(),
            output: SendBuffer::default(),
            sent: 0,
            connection: Connection::new(ANSWER_MAX_BYTES),
            pending: VecDeque::new(),
            is_finished: false,
            owes_catch_up: false,
            caught_up_ms: 0,
            refused_ms: None,
            last_heard_ms: 0,
            epoch,
            timer: Box::pin(sleep_until(epoch)),
        };
        session
            .connection
            .open(credentials, 0, session.output.end());
        session
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn catch_up(&mut self, now_ms: u64) {
        self.owes_catch_up = false;
        self.caught_up_ms = now_ms;
        self.packer.pack_catch_up(self.output.end());
        self.expect(Command::CatchUp, 1, now_ms);
    }

    fn expect(&mut self, command: Command, count: usize, since_ms: u64) {
        assert!(count > 0, "nothing is answered by nothing");
        assert!(
            self.connection.is_logged_in(),
            "what is sent before the login is refused"
        );
        let end = self.sent + self.output.len() as u64;
        assert!(
            self.pending.back().is_none_or(|last| last.end < end),
            "what is expected was packed"
        );
        self.pending.push_back(PendingCommands {
            command,
            count,
            end,
            since_ms,
        });
    }

    fn run_once(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let now_ms = self.now_ms();
        loop {
            let took = self.take(context, now_ms);
            let wrote = self.write(context, now_ms)?;
            let read = self.read(context, now_ms)?;
            if !took && !wrote && !read {
                break;
            }
        }
        if self.is_idle_for_good() && !self.owes_catch_up {
            return Err(End::Finished);
        }
        self.keep_time(context, now_ms)
    }

    /// Whether nothing more will be published, and all is answered.
    fn is_idle_for_good(&self) -> bool {
        self.is_finished && self.pending.is_empty()
    }

    /// Packs what waits in the queue, as far as there is room; whether there was anything.
    fn take(&mut self, context: &mut Context<'_>, now_ms: u64) -> bool {
        let room = UNSENT_BYTES.saturating_sub(self.output.len());
        if !self.connection.is_logged_in() || room == 0 {
            return false;
        }
        let found = self.queue.take(room, &mut self.commits, context.waker());
        self.owes_catch_up |= found.has_lost;
        self.is_finished = found.is_finished;
        let has_taken = !self.commits.is_empty();
        let mut publishes = 0;
        for commit in self.commits.drain(..) {
            publishes += self.packer.pack(&commit, self.output.end());
        }
        if publishes > 0 {
            self.expect(Command::Publish, publishes, now_ms);
        }
        has_taken
    }

    fn write(&mut self, context: &mut Context<'_>, now_ms: u64) -> Result<bool, End> {
        let begun = self.sent;
        let written = self.write_out(context);
        if self.output.is_empty() {
            let last = self.pending.back().map(|last| last.end);
            assert!(
                last.is_none_or(|end| end == self.sent),
                "all that has left is expected to be answered"
            );
        }
        if self.sent > begun {
            let waiting = self.pending.iter_mut().rev();
            waiting
                .take_while(|pending| pending.end > begun)
                .for_each(|pending| pending.since_ms = now_ms);
        }
        written
    }

    fn write_out(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut wrote = false;
        while !self.output.is_empty() {
            let rest = self.output.unsent();
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(End::Closed),
                Poll::Ready(Ok(count)) => {
                    self.output.consume(count);
                    self.sent += count as u64;
                }
                Poll::Ready(Err(error)) => return Err(End::Lost(error)),
                Poll::Pending => return Ok(wrote),
            }
            wrote = true;
        }
        // What has not left by then leaves when the socket can: this task is woken.
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(Err(error)) => Err(End::Lost(error)),
            _ => Ok(wrote),
        }
    }

    fn read(&mut self, context: &mut Context<'_>, now_ms: u64) -> Result<bool, End> {
        let mut buffer = [0; READ_BYTES];
        let mut space = ReadBuf::new(&mut buffer);
        match Pin::new(&mut self.stream).poll_read(context, &mut space) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(error)) => return Err(End::Lost(error)),
            Poll::Ready(Ok(())) if space.filled().is_empty() => return Err(End::Closed),
            Poll::Ready(Ok(())) => {}
        }
        self.last_heard_ms = now_ms;
        let mut bytes = space.filled();
        while let Some(received) = self.connection.next(&mut bytes)? {
            match received {
                Received::LoggedIn => {
                    assert!(self.pending.is_empty(), "the login comes first");
                    // From here on pushes are kept, and the first thing to leave makes up for
                    // those that were not.
                    self.queue.open();
                    self.catch_up(now_ms);
                }
                Received::Value(value) => self.answered(answer(value)?, now_ms)?,
            }
        }
        Ok(true)
    }

    fn answered(&mut self, answer: Result<(), String>, now_ms: u64) -> Result<(), End> {
        let Some(front) = self.pending.front_mut() else {
            return Err(ConnectionError::from(ProtocolError::Unasked).into());
        };
        assert!(
            front.count > 0,
            "what is answered in full is pending no more"
        );
        let command = front.command;
        front.count -= 1;
        if front.count == 0 {
            self.pending.pop_front();
        }
        match (command, answer) {
            (Command::CatchUp, Ok(())) => {
                if self.connection.is_preparing() {
                    self.connection.prepared(now_ms);
                    self.metrics.publisher_connected.set(1);
                    self.metrics.publisher_outage.end();
                    info!("pushes go through Redis");
                }
            }
            (Command::Publish, Ok(())) => {
                self.metrics.publishes.inc();
                self.forget_refusal(now_ms);
            }
            (Command::Publish, Err(error)) => {
                self.metrics.publish_failures.inc();
                self.owes_catch_up = true;
                self.refused_ms = Some(now_ms);
                let reason = format!("it refused a push: {error}");
                if self.metrics.publisher_outage.report(&reason) {
                    warn!("Redis does not take every push: {reason}");
                }
            }
            (Command::Ping, Ok(())) => self.forget_refusal(now_ms),
            (Command::CatchUp | Command::Ping, Err(error)) => {
                return Err(ConnectionError::Refused(error).into());
            }
        }
        Ok(())
    }

    /// A refusal is no present one any more when none has followed it for a while: what is allowed
    /// on one channel may not be on another.
    fn forget_refusal(&mut self, now_ms: u64) {
        if self
            .refused_ms
            .is_some_and(|refused_ms| now_ms >= refused_ms + REFUSAL_LASTS_MS)
        {
            self.refused_ms = None;
            self.metrics.publisher_outage.end();
        }
    }

    /// Does what is due at its time: gives up, catches up, asks whether Redis is there. Has the
    /// task woken for the next of it.
    fn keep_time(&mut self, context: &mut Context<'_>, now_ms: u64) -> Result<(), End> {
        // At the end there is no later.
        if self.owes_catch_up
            && (now_ms >= self.caught_up_ms + CATCH_UP_PAUSE_MS || self.is_idle_for_good())
        {
            self.catch_up(now_ms);
        }
        self.await_answers();
        if self.connection.advance(now_ms)? == Due::Probe {
            self.packer.pack_command(&["PING"], self.output.end());
            self.expect(Command::Ping, 1, now_ms);
        }
        self.write(context, now_ms)?;
        self.await_answers();
        self.arm(context);
        Ok(())
    }

    /// Tells the connection what it waits for: Redis works off one command after the other, so the
    /// answer to the first counts from when it was asked, or from the answer before.
    fn await_answers(&mut self) {
        if !self.connection.is_ready() {
            return;
        }
        match self.pending.front() {
            Some(front) => self
                .connection
                .asked(front.since_ms.max(self.last_heard_ms)),
            None => self.connection.answered(self.last_heard_ms),
        }
    }

    /// The timer is only ever moved to an earlier time, or on after it has run out: what is due
    /// moves on with every answer, and to follow it each time would cost more than a wake-up too
    /// many.
    fn arm(&mut self, context: &mut Context<'_>) {
        let Some(mut due_ms) = self.connection.due_ms() else {
            return;
        };
        if self.owes_catch_up {
            due_ms = due_ms.min(self.caught_up_ms + CATCH_UP_PAUSE_MS);
        }
        let due = self.epoch + Duration::from_millis(due_ms);
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if due <= Instant::now() {
                // Due while this run lasted: come again at once.
                context.waker().wake_by_ref();
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}

impl Future for Session<'_> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        match self.run_once(context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let dropped = self.queue.close().iter().map(Vec::len).sum::<usize>();
        self.metrics
            .push_dropped(PublishDrop::Disconnected, dropped as u64);
        self.metrics.publisher_connected.set(0);
        let unanswered = self.pending.iter();
        let lost: usize = unanswered
            .filter(|pending| pending.command == Command::Publish)
            .map(|pending| pending.count)
            .sum();
        self.metrics.publish_failures.add(lost as u64);
    }
}
