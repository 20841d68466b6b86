//! The one way to standard error: a bounded buffer and a thread that empties it.
//!
//! Owns the only writes to standard error while the process serves. Whoever writes here never waits
//! for whoever reads there: what does not fit is dropped and counted, and once it flows again the
//! log says how much is missing. Invariant: lines come out whole and in the order they went in.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

/// What may wait for the reader of standard error: some two thousand lines.
const BUFFER_BYTES: usize = 256 * 1024;

/// A write that has taken longer is taken for one that nobody reads.
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// The buffer in front of a stream, see the module's description.
pub(super) struct Writer {
    state: Mutex<State>,
    /// Something was put into the buffer.
    filled: Condvar,
    /// Everything was written.
    emptied: Condvar,
    /// Lines dropped since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Since when the thread has been writing what it took last; `None`: it waits for more.
    writing_since: Option<Instant>,
    /// Lines dropped that the log has not told of.
    untold: u64,
}

impl Writer {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                buffer: Vec::new(),
                writing_since: None,
                untold: 0,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes whole lines. Drops them if they do not fit; never waits for the stream.
    pub(super) fn put(&self, lines: &[u8]) {
        let mut state = self.state();
        if lines.len() > BUFFER_BYTES - state.buffer.len() {
            self.lost(&mut state, lines);
            return;
        }
        state.buffer.extend_from_slice(lines);
        drop(state);
        self.filled.notify_one();
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until everything is written, at most this long.
    pub(super) fn flush(&self, at_most: Duration) {
        let pending = |state: &mut State| !state.is_idle();
        // Whether it was long enough makes no difference: the caller goes on.
        drop(
            self.emptied
                .wait_timeout_while(self.state(), at_most, pending),
        );
    }

    /// The same for threads that must not be held up: at once if nobody reads the stream.
    pub(super) fn flush_unless_stuck(&self) {
        let is_stuck = |since: Instant| since.elapsed() > STUCK_AFTER;
        if !self.state().writing_since.is_some_and(is_stuck) {
            self.flush(STUCK_AFTER);
        }
    }

    /// Writes what comes to `out`, for ever. Calls `tell` with the number of lines that did not fit
    /// as soon as there is room to say so.
    fn run(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut chunk = Vec::new();
        loop {
            let missing = self.take(&mut chunk);
            if missing > 0 {
                tell(missing);
            }
            if let Err(unwritten) = write(&mut out, &chunk) {
                self.lost(&mut self.state(), unwritten);
            }
            chunk.clear();
        }
    }

    /// Waits for something to write and swaps it for the empty `chunk`, so that neither is
    /// allocated anew. Says how many lines did not fit behind it.
    fn take(&self, chunk: &mut Vec<u8>) -> u64 {
        let mut state = self.state();
        state.writing_since = None;
        if state.buffer.is_empty() {
            self.emptied.notify_all();
        }
        let mut state = self
            .filled
            .wait_while(state, |state| state.buffer.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        mem::swap(&mut state.buffer, chunk);
        state.writing_since = Some(Instant::now());
        mem::take(&mut state.untold)
    }

    fn lost(&self, state: &mut State, lines: &[u8]) {
        let count = memchr::memchr_iter(b'\n', lines).count().max(1) as u64;
        state.untold += count;
        self.dropped.fetch_add(count, Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.buffer.is_empty() && self.writing_since.is_none()
    }
}

/// Writes all of it; else gives back what was not written.
fn write<'a>(out: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(written) if written > 0 => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(bytes),
        }
    }
    Ok(())
}

/// The writer to standard error. Its thread starts with the first call; `None`: there is none to be
/// had.
pub(super) fn of_standard_error() -> Option<&'static Writer> {
    static WRITER: Writer = Writer::new();
    static STARTED: OnceLock<bool> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // A line of the log itself, so it comes back into this buffer.
        let tell = |count| log::warn!("{count} log lines are missing: nobody read them in time");
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || WRITER.run(StandardError, tell))
            .is_ok()
    });
    started.then_some(&WRITER)
}

/// Standard error without the lock that `std` puts around it: a thread that hangs in a write would
/// hang everybody else who takes it.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(io::stderr(), bytes) {
                // Whoever shares the stream with us has made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    let stderr = io::stderr();
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A stream that takes a write whenever the test says so, and hands over what it took.
    struct Gate {
        open: mpsc::Receiver<io::Result<()>>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once the test is over the thread stays here, as it does behind a stream nobody reads.
            let Ok(outcome) = self.open.recv() else {
                loop {
                    thread::park();
                }
            };
            outcome?;
            let _ = self.taken.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Stream {
        writer: &'static Writer,
        open: mpsc::Sender<io::Result<()>>,
        taken: mpsc::Receiver<Vec<u8>>,
    }

    fn stream() -> Stream {
        let writer: &'static Writer = Box::leak(Box::new(Writer::new()));
        let (open, gate) = mpsc::channel();
        let (take, taken) = mpsc::channel();
        let out = Gate {
            open: gate,
            taken: take,
        };
        let tell = |count| writer.put(format!("{count} missing\n").as_bytes());
        thread::spawn(move || writer.run(out, tell));
        Stream {
            writer,
            open,
            taken,
        }
    }

    impl Stream {
        /// Lets one write pass; what it wrote.
        fn next(&self) -> String {
            self.open.send(Ok(())).expect("the thread lives");
            let bytes = self.taken.recv_timeout(LONG).expect("a write");
            String::from_utf8(bytes).expect("UTF-8")
        }

        /// Waits until the thread hangs in a write.
        fn until_writing(&self) {
            while self.writer.state().writing_since.is_none() {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_counted_and_told_of_where_it_is_missing() {
        let stream = stream();
        stream.writer.put(b"first\n");
        stream.until_writing();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..300 {
            stream.writer.put(&line);
        }
        assert_eq!(stream.writer.dropped(), 44);
        assert_eq!(stream.next(), "first\n");
        assert_eq!(stream.next().lines().count(), 256);
        assert_eq!(stream.next(), "44 missing\n");
        stream.writer.put(b"flows again\n");
        assert_eq!(stream.next(), "flows again\n");
        assert_eq!(stream.writer.dropped(), 44);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let stream = stream();
        stream.writer.put(b"one\ntwo\n");
        stream.until_writing();
        let gone = io::ErrorKind::BrokenPipe;
        stream
            .open
            .send(Err(gone.into()))
            .expect("the thread lives");
        while stream.writer.dropped() < 2 {
            thread::yield_now();
        }
        stream.writer.put(b"three\n");
        assert_eq!(stream.next(), "three\n");
        assert_eq!(stream.next(), "2 missing\n");
    }

    #[test]
    fn a_flush_ends_when_all_is_written_or_its_time_is_up() {
        let stream = stream();
        stream.writer.flush(LONG);
        stream.writer.put(b"stuck\n");
        stream.until_writing();
        stream.writer.flush(Duration::from_millis(1));
        while stream
            .writer
            .state()
            .writing_since
            .expect("writing")
            .elapsed()
            <= STUCK_AFTER
        {
            thread::yield_now();
        }
        stream.writer.flush_unless_stuck();
        stream.open.send(Ok(())).expect("the thread lives");
        stream.writer.flush(LONG);
        assert!(stream.writer.state().is_idle());
        assert_eq!(stream.taken.try_recv().as_deref(), Ok(&b"stuck\n"[..]));
    }
}
