//! The store thread: takes calls off the queue in batches, runs them, and hands out what came of
//! it.
//!
//! Owns the order "commit, publish, reply". It is the only thread that touches the store. It waits
//! only for its queue: a batch is what has piled up while the last one was committed, so a lone
//! call is not delayed and a crowd shares one commit. Whose call is next is for `waiting` to say; a
//! batch ends when it has taken so long that others should not wait for its end. It never waits for
//! a password thread (a full pool refuses), so the two queues cannot block each other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{
    Call, ReplySink,
    clock::{Clock, Now},
    engine::{self, Effects, Engine, Item, Outcome},
    health::{CALM_MS, FailureReport},
    password::{Judged, PasswordPool},
    waiting::Waiting,
};
use crate::{
    contract::{bus::Publisher, methods::Response},
    metrics,
};

/// Calls that may wait in turns; the others wait in the queue.
const WAITING_CALLS: usize = 32_768;
/// A batch lasts at least so long, or as long as so many commits, if calls wait: else commits would
/// be most of the work.
const LEAST_BATCH: Duration = Duration::from_millis(1);
const BATCH_COMMITS: u32 = 2;
/// And at most so long: whoever comes now waits for its end.
const LONGEST_BATCH: Duration = Duration::from_millis(50);
/// Time between two passes of the sweep, and the longest wait for a call.
const SWEEP_PASS: Duration = Duration::from_secs(60);
/// Pause between two slices of a pass when nobody asks.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// Under lasting load, a slice is taken so often all the same, or the file would only grow.
const SWEEP_UNDER_LOAD: Duration = Duration::from_secs(1);
/// Quiet time after which the log is copied into the main file, so that a busy moment need not.
const QUIET_BEFORE_CHECKPOINT: Duration = Duration::from_secs(1);
/// Commits that make such a copy worth while.
const COMMITS_BEFORE_CHECKPOINT: u64 = 200;

/// In a backend: how often it is looked whether a route has expired or the log has grown too long.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Length of the write-ahead log past which it is emptied even under load, where several processes
/// keep each other from ever finding it all copied.
const LONG_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// How often it is said that somebody keeps it from that.
const READER_TOLD_EVERY: Duration = Duration::from_secs(600);

/// What travels to the store thread.
pub(super) enum Envelope {
    /// A caller asks.
    Call(Call),
    /// The password pool answers.
    Judged(Judged),
    /// Have the main file stay as it is.
    Hold(Sender<Result<Arc<AtomicBool>, String>>),
    /// It may change again.
    LetGo,
    /// Finish what is queued and end.
    Stop,
}

/// The thread's belongings.
pub(super) struct StoreThread {
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) queue: Receiver<Envelope>,
    pub(super) waiting: Waiting,
    /// Verdicts that the password pool still owes.
    pub(super) verdicts_awaited: usize,
    pub(super) passwords: PasswordPool,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) metrics: Arc<metrics::Store>,
}

/// When the background work was last done.
struct Housekeeping {
    sweeping: bool,
    last_slice: Instant,
    last_call: Instant,
    last_look: Instant,
    /// There are routes that have expired, or users whose going is to be told.
    expiring: bool,
    commits_at_checkpoint: u64,
    commits_at_note: u64,
    last_measure: Instant,
    reader_told: Option<Instant>,
}

impl Housekeeping {
    /// While routes expire, a few at a time, it is looked more often whether there are more.
    fn pause_before_look(&self) -> Duration {
        if self.expiring {
            SWEEP_PAUSE
        } else {
            LOOK_AROUND
        }
    }
}

impl StoreThread {
    /// Runs until told to stop, or until nobody is left who could ask.
    pub(super) fn run(mut self) {
        let mut housekeeping = Housekeeping {
            sweeping: false,
            last_slice: Instant::now(),
            last_call: Instant::now(),
            last_look: Instant::now(),
            expiring: false,
            commits_at_checkpoint: 0,
            commits_at_note: 0,
            last_measure: Instant::now(),
            reader_told: None,
        };
        let mut stopping = false;
        while !stopping {
            let wait = self.longest_wait(&housekeeping);
            match self.queue.recv_timeout(wait) {
                Ok(first) => {
                    stopping = self.gather(first);
                    housekeeping.last_call = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stopping = true,
            }
            self.carry_out();
            self.keep_house(&mut housekeeping);
        }
        self.finish();
    }

    /// Takes what has piled up; `true`: the order to stop was in it.
    fn gather(&mut self, first: Envelope) -> bool {
        let mut refused = Replies::default();
        let mut is_last = false;
        let mut next = Some(first);
        while let Some(envelope) = next {
            let item = match envelope {
                Envelope::Call(call) => Item::Call(call),
                Envelope::Judged(judged) => {
                    // Whatever becomes of it, even if it is too late to act upon.
                    self.verdicts_awaited = self.verdicts_awaited.saturating_sub(1);
                    Item::Judged(judged)
                }
                Envelope::Stop => {
                    is_last = true;
                    break;
                }
                Envelope::Hold(answer) => {
                    // Whoever asked may have given up.
                    let _ = answer.send(self.hold_file());
                    break;
                }
                Envelope::LetGo => {
                    self.engine.store.let_go();
                    break;
                }
            };
            if let Err(item) = self.waiting.push(item) {
                refused.push(&item, engine::too_many_calls(&item));
            }
            next = (self.waiting.len() < WAITING_CALLS)
                .then(|| self.queue.try_recv().ok())
                .flatten();
        }
        refused.complete();
        is_last
    }

    /// Has everything that was said to be stored in the main file, and that stay as it is.
    fn hold_file(&mut self) -> Result<Arc<AtomicBool>, String> {
        self.engine.store.write_back_all();
        let now = self.look_at_clock();
        self.engine.run_housekeeping(now, false);
        let held = self.engine.store.hold_file();
        held.map_err(|error| error.to_string())
    }

    /// Runs a batch of what waits and hands out its effects.
    fn carry_out(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let depth = self.queue.len() + self.waiting.len();
        self.metrics.queue_depth.set(depth as u64);
        let longest = (self.engine.last_commit * BATCH_COMMITS).clamp(LEAST_BATCH, LONGEST_BATCH);
        let now = self.look_at_clock();
        let mut batch = self.waiting.batch(longest);
        let Effects { pushes, outcomes } = self.engine.run(&mut batch, now);
        let late = batch.end();
        if !pushes.is_empty() {
            self.publisher.publish(pushes);
        }
        let mut replies = Replies::default();
        for item in late {
            replies.push(&item, engine::too_late(&item));
        }
        for (item, outcome) in outcomes {
            match outcome {
                Outcome::Reply(response) => replies.push(&item, response),
                Outcome::Password(task) => {
                    match self.passwords.submit(engine::job(&item, task)) {
                        None => self.verdicts_awaited += 1,
                        // It, or one that waited: in any case one verdict less than calls.
                        Some(lost) => {
                            let response = engine::too_many_passwords(&lost);
                            replies.push_to(&lost.sink, lost.call_id, response);
                        }
                    }
                }
            }
        }
        replies.complete();
        // Behind the replies: a core that has both is woken once.
        self.publisher.wake_listeners();
    }

    fn longest_wait(&self, housekeeping: &Housekeeping) -> Duration {
        if !self.waiting.is_empty() {
            return Duration::ZERO;
        }
        let pause = if housekeeping.sweeping {
            SWEEP_PAUSE
        } else if self.engine.health.is_failing() {
            Duration::from_millis(CALM_MS)
        } else if self.owes_checkpoint(housekeeping) {
            QUIET_BEFORE_CHECKPOINT
        } else {
            SWEEP_PASS
        };
        let pause = if self.engine.presence.is_in_storage() {
            pause.min(housekeeping.pause_before_look())
        } else if self.engine.departures.next_due_ms().is_some() {
            pause.min(LOOK_AROUND)
        } else {
            pause
        };
        match self.engine.store.write_back_due_ms() {
            Some(due) => pause.min(Duration::from_millis(
                u64::try_from(due - self.clock.store_ms()).unwrap_or(0),
            )),
            None => pause,
        }
    }

    fn owes_checkpoint(&self, housekeeping: &Housekeeping) -> bool {
        self.metrics.commits.get() - housekeeping.commits_at_checkpoint >= COMMITS_BEFORE_CHECKPOINT
    }

    fn keep_house(&mut self, housekeeping: &mut Housekeeping) {
        let now = self.look_at_clock();
        let now_ms = now.store_ms;
        let is_quiet = self.queue.is_empty() && self.waiting.is_empty();
        let since_slice = housekeeping.last_slice.elapsed();
        let pause = match (housekeeping.sweeping, is_quiet) {
            (false, _) => SWEEP_PASS,
            (true, true) => SWEEP_PAUSE,
            (true, false) => SWEEP_UNDER_LOAD,
        };
        let sweep = since_slice >= pause;
        let write_back = self
            .engine
            .store
            .write_back_due_ms()
            .is_some_and(|due| due <= now_ms);
        self.measure_log(housekeeping);
        let expired = self.look_around(now_ms, housekeeping);
        if sweep || write_back || expired || self.engine.health.probe_is_due(now_ms) {
            if sweep && !housekeeping.sweeping {
                self.note_time(housekeeping);
            }
            let more = self.engine.run_housekeeping(now, sweep);
            let pushes = self.engine.take_pushes();
            if !pushes.is_empty() {
                self.publisher.publish(pushes);
                self.publisher.wake_listeners();
            }
            if sweep {
                housekeeping.sweeping = more;
                housekeeping.last_slice = Instant::now();
            }
        }
        if is_quiet
            && housekeeping.last_call.elapsed() >= QUIET_BEFORE_CHECKPOINT
            && self.owes_checkpoint(housekeeping)
        {
            self.engine.store.tidy(false);
            housekeeping.commits_at_checkpoint = self.metrics.commits.get();
        }
    }

    fn look_at_clock(&mut self) -> Now {
        let (now, is_step) = self.clock.look();
        if is_step {
            self.metrics.clock_steps.inc();
        }
        now
    }

    /// With each pass of the sweep it is noted how late it is, unless nothing happened since.
    fn note_time(&mut self, housekeeping: &mut Housekeeping) {
        let commits = self.metrics.commits.get();
        if housekeeping.commits_at_note != commits {
            // The note itself is one.
            housekeeping.commits_at_note = commits + 1;
            self.engine.time_to_note = Some(self.clock.base());
        }
    }

    fn measure_log(&self, housekeeping: &mut Housekeeping) {
        if housekeeping.last_measure.elapsed() >= LOOK_AROUND {
            housekeeping.last_measure = Instant::now();
            self.metrics.log_bytes.set(self.engine.store.log_bytes());
        }
    }

    /// Now and then: in a backend keeps the log from growing, and tells whether there are routes
    /// that have expired or users whose going is to be told.
    fn look_around(&mut self, now_ms: i64, housekeeping: &mut Housekeeping) -> bool {
        if !self.engine.presence.is_in_storage() {
            return self.engine.has_due_departures(now_ms);
        }
        if housekeeping.last_look.elapsed() < housekeeping.pause_before_look() {
            return false;
        }
        housekeeping.last_look = Instant::now();
        if self.engine.store.shorten_log(LONG_LOG_BYTES) {
            tell_of_reader(housekeeping, self.engine.store.log_bytes());
        }
        housekeeping.expiring =
            self.engine.has_expired_routes(now_ms) || self.engine.has_due_departures(now_ms);
        housekeeping.expiring
    }

    /// Answers all that is still queued or with the password pool, writes what is unwritten, and
    /// empties the log.
    fn finish(mut self) {
        loop {
            if let Ok(envelope) = self.queue.try_recv() {
                self.gather(envelope);
            } else if self.waiting.is_empty() {
                if self.verdicts_awaited == 0 {
                    break;
                }
                match self.queue.recv() {
                    Ok(envelope) => drop(self.gather(envelope)),
                    Err(_) => break,
                }
            }
            self.carry_out();
        }
        self.engine.store.write_back_all();
        self.engine.time_to_note = Some(self.clock.base());
        let now = self.look_at_clock();
        self.engine.run_housekeeping(now, false);
        self.engine.store.tidy(true);
        self.passwords.stop();
    }
}

/// Says that the log grows, and why.
fn tell_of_reader(housekeeping: &mut Housekeeping, log_bytes: u64) {
    let told = housekeeping.reader_told;
    if told.is_none_or(|told| told.elapsed() >= READER_TOLD_EVERY) {
        housekeeping.reader_told = Some(Instant::now());
        log::warn!(
            "the log of the database has {} MiB and cannot be shortened: another process has been reading the database for \
             a while. Let a backup finish, end an open transaction (as in sqlite3), or the disk fills up",
            log_bytes >> 20
        );
    }
}

/// Runs the thread. Should it panic outside a call, the queue closes and every later call is
/// refused at once.
pub(super) fn main(thread: StoreThread, report: &FailureReport) {
    if catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {
        log::error!("the store thread panicked: nothing is stored or read any more");
        report(true);
    }
}

/// Replies gathered per sink.
#[derive(Default)]
struct Replies {
    by_sink: Vec<SinkReplies>,
}

/// One sink and what it gets.
type SinkReplies = (Arc<dyn ReplySink>, Vec<(u64, Response)>);

impl Replies {
    fn push(&mut self, item: &Item, response: Response) {
        let (sink, call_id) = item.reply_to();
        self.push_to(sink, call_id, response);
    }

    fn push_to(&mut self, sink: &Arc<dyn ReplySink>, call_id: u64, response: Response) {
        // One for each core or connection with a call in the batch: few, and never more than the
        // batch has calls.
        let known = self
            .by_sink
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, sink));
        match known {
            Some((_, replies)) => replies.push((call_id, response)),
            None => self
                .by_sink
                .push((Arc::clone(sink), vec![(call_id, response)])),
        }
    }

    fn complete(self) {
        for (sink, replies) in self.by_sink {
            sink.complete(replies);
        }
    }
}
