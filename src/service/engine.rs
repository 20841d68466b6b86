//! The services as one deterministic machine: a batch of calls and the time go in; pushes, replies
//! and password jobs come out.
//!
//! Owns the order of things: calls are carried out one after another, in one transaction, and
//! nothing leaves before its commit. Knows no thread, channel or clock. Each subject (users,
//! presence, messages, groups) adds its own methods in its own file.
//!
//! A batch whose storage fails is taken back and carried out again reading only: writes are refused
//! as unavailable, reads are answered. A call that panics, or fails with a part of it written, is
//! refused, everything remembered is forgotten, and the batch is carried out without it: no call is
//! ever done by half, and none pays for that before it fails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Call, ReplySink,
    clock::Now,
    friends::Departures,
    health::{FailureReport, Health},
    password::{Job, Judged, Task, Verdict},
    store::{Failure, Mode, Storage, Store, sqlite::Sqlite, storage::TimeBase},
    sweep::Sweep,
};
use crate::{
    base::{id::MessageIds, names::Alphabet},
    contract::{
        bus::Channel,
        methods::{Request, Response},
    },
    metrics,
    proto::{self, Code, PushMessage},
    service::route_table::Presence,
};

/// While storage fails, the log is emptied at most so often.
const SHORTEN_LOG_EVERY_MS: i64 = 5000;
/// How often it is said that the file is damaged.
const DAMAGE_TOLD_EVERY_MS: i64 = 60_000;

/// One thing to do.
pub(super) enum Item {
    /// A call.
    Call(Call),
    /// The password pool is done with a login or a registration.
    Judged(Judged),
}

impl Item {
    /// Where the reply goes.
    pub(super) fn reply_to(&self) -> (&Arc<dyn ReplySink>, u64) {
        match self {
            Self::Call(call) => (&call.sink, call.call_id),
            Self::Judged(judged) => (&judged.sink, judged.call_id),
        }
    }

    /// When nobody waits for it any more.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Call(call) => call.deadline,
            Self::Judged(judged) => match judged.verdict {
                // Its caller is about to be told that it failed, so there must be no account of it
                // later.
                Verdict::Hashed { .. } | Verdict::Rehashed { .. } => judged.act_before,
                // The work is done.
                _ => None,
            },
        }
    }

    /// Whether it is answered from rows that stand for themselves: it changes nothing and relies on
    /// nothing that is remembered, so it need not wait until other processes have written.
    fn only_looks_up(&self) -> bool {
        match self {
            Self::Call(call) => matches!(
                call.request,
                Request::Login(_)
                    | Request::Register(_)
                    | Request::ChangePassword(_)
                    | Request::Logout(_)
                    | Request::GetFriends(_)
                    | Request::GetProfile(_)
                    | Request::Search(_)
            ),
            Self::Judged(judged) => match &judged.verdict {
                Verdict::Login { user, origin } => user.is_none() || !origin.is_news,
                Verdict::Hashed { .. } | Verdict::Rehashed { .. } => false,
                Verdict::TooLate(_) | Verdict::Failed(_) => true,
            },
        }
    }

    fn failed(&self, result: proto::Result) -> Response {
        match self {
            Self::Call(call) => call.request.failed(result),
            Self::Judged(judged) => judged.verdict.purpose().failed(result),
        }
    }
}

/// What is to be done with an item after the commit.
pub(super) enum Outcome {
    /// Answer.
    Reply(Response),
    /// Ask the password pool; its verdict comes back as an item.
    Password(Task),
}

/// Where the items of a batch come from.
pub(super) trait Batch {
    /// The next item; asking for it says that the last one is done. `None`: it is time to commit.
    fn next(&mut self) -> Option<Item>;

    /// The time so far was spent waiting for a storage that others use, or that failed: it is no
    /// item's.
    fn restart(&mut self);

    /// Whether nobody waits any more for what `item` does.
    fn is_late(&self, item: &Item) -> bool;
}

/// What a batch leads to, once it is committed.
#[derive(Default)]
pub(super) struct Effects {
    /// To be published first, in this order.
    pub(super) pushes: Vec<(Channel, PushMessage)>,
    /// The items, each with what came of it, in the order they were carried out.
    pub(super) outcomes: Vec<(Item, Outcome)>,
}

/// See the module's description.
pub(super) struct Engine<S = Sqlite> {
    pub(super) store: Store<S>,
    pub(super) presence: Presence,
    pub(super) message_ids: MessageIds,
    pub(super) sweep: Sweep,
    pub(super) departures: Departures,
    pub(super) pushes: Vec<(Channel, PushMessage)>,
    pub(super) health: Health,
    pub(super) metrics: Arc<metrics::Store>,
    /// Now, by the store's time.
    pub(super) now_ms: i64,
    /// Now, by the wall clock: for time stamps, and nothing else.
    pub(super) unix_ms: i64,
    /// What new users may be called.
    pub(super) names: Alphabet,
    /// How late it is, if that is to be noted.
    pub(super) time_to_note: Option<TimeBase>,
    /// How long the last commit took.
    pub(super) last_commit: Duration,
    /// When the log was last emptied because storage failed.
    log_shortened_ms: i64,
    /// When it was last said that the file is damaged.
    damage_told_ms: Option<i64>,
    /// Messages stored by the batch at hand, counted once it is committed.
    pub(super) stored_messages: u64,
    /// Messages deleted by the batch at hand, counted once it is committed.
    pub(super) swept_messages: u64,
    /// Stands in for a bug: looking up this user's profile panics.
    #[cfg(test)]
    pub(super) panics_on_profile_of: crate::base::id::UserId,
}

/// Why a batch could not be carried out as it is.
enum Abort {
    /// This call panicked, or failed with a part of it written: the batch goes without it.
    LeaveOut(usize),
    Storage(Failure),
}

impl<S: Storage> Engine<S> {
    /// The same, where new users are called by `names`.
    pub(super) fn naming(self, names: Alphabet) -> Self {
        Self { names, ..self }
    }

    /// Over `store` and the routes of `presence`, giving message ids of its own from `message_ids`.
    pub(super) fn new(
        store: Store<S>,
        presence: Presence,
        message_ids: MessageIds,
        metrics: Arc<metrics::Store>,
        report: FailureReport,
    ) -> Self {
        Self {
            store,
            presence,
            message_ids,
            sweep: Sweep::default(),
            departures: Departures::default(),
            pushes: Vec::new(),
            health: Health::new(report),
            metrics,
            now_ms: 0,
            unix_ms: 0,
            names: Alphabet::default(),
            time_to_note: None,
            last_commit: Duration::ZERO,
            log_shortened_ms: 0,
            damage_told_ms: None,
            stored_messages: 0,
            swept_messages: 0,
            #[cfg(test)]
            panics_on_profile_of: 0,
        }
    }

    fn set_now(&mut self, now: Now) {
        self.unix_ms = now.unix_ms;
        self.now_ms = now.store_ms;
    }

    /// Carries out a batch and commits it.
    pub(super) fn run(&mut self, batch: &mut impl Batch, now: impl Into<Now>) -> Effects {
        self.set_now(now.into());
        let mut items = Vec::new();
        let mut left_out = Vec::new();
        let mut mode = Mode::Normal;
        loop {
            self.store.set_mode(mode);
            match self.attempt(&mut items, batch, &left_out) {
                Ok(outcomes) => {
                    self.check_invariants();
                    return Effects {
                        pushes: std::mem::take(&mut self.pushes),
                        outcomes: items.into_iter().zip(outcomes).collect(),
                    };
                }
                Err(Abort::LeaveOut(index)) => {
                    self.take_back();
                    self.forget_all();
                    left_out.push(index);
                }
                Err(Abort::Storage(error)) => {
                    self.failed(&error);
                    self.take_back();
                    self.shorten_log();
                    batch.restart();
                    mode = Mode::ReadsOnly;
                }
            }
        }
    }

    /// Carries out what is due while nobody asks: one slice of the sweep, late confirmations,
    /// routes that have expired, users who have gone, and after a failure a try whether the store
    /// can be written again. `true`: there is more to sweep.
    pub(super) fn run_housekeeping(&mut self, now: impl Into<Now>, sweep: bool) -> bool {
        self.set_now(now.into());
        let now_ms = self.now_ms;
        self.store.set_mode(Mode::Normal);
        let done = catch_unwind(AssertUnwindSafe(|| {
            self.begin()?;
            self.expire_routes()?;
            self.tell_departures()?;
            if self.health.probe_is_due(now_ms) {
                self.store.probe()?;
            }
            if let Some(base) = self.time_to_note.take() {
                self.store.write()?.put_time_base(&base)?;
            }
            let more = if sweep { self.sweep_slice()? } else { false };
            self.commit().map(|()| more)
        }));
        let more = match done {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => {
                if matches!(error, Failure::Storage(_)) || self.store.lost_transaction() {
                    self.failed(&error);
                } else if matches!(error, Failure::Corrupt(_)) {
                    self.tell_of_damage(&error);
                } else {
                    log::error!("the store cannot be tidied up: {error}");
                }
                self.take_back();
                false
            }
            Err(_) => {
                log::error!("tidying up the store panicked");
                self.take_back();
                self.forget_all();
                false
            }
        };
        self.check_invariants();
        more
    }

    /// What is to be published after [`Engine::run_housekeeping`].
    pub(super) fn take_pushes(&mut self) -> Vec<(Channel, PushMessage)> {
        std::mem::take(&mut self.pushes)
    }

    /// The write-ahead log itself may be what fills the disk: what it holds can go to the main
    /// file, and the log be emptied.
    fn shorten_log(&mut self) {
        if self.now_ms >= self.log_shortened_ms + SHORTEN_LOG_EVERY_MS {
            self.log_shortened_ms = self.now_ms;
            // Emptying it would wait for other processes, and one of them may be what the batch has
            // waited for in vain.
            self.store.tidy(!self.store.is_shared());
        }
    }

    /// Begins the transaction of a batch where it has to begin with the batch.
    fn begin(&mut self) -> Result<(), Failure> {
        let begun = self.store.begin_batch();
        let waited = self.store.kept_from_writing().as_millis();
        self.metrics
            .lock_wait_ms
            .set(u64::try_from(waited).unwrap_or(u64::MAX));
        if begun? {
            self.presence.forget();
        }
        Ok(())
    }

    /// A transaction could not be written.
    fn failed(&mut self, error: &Failure) {
        if self.metrics.outage.report(error) {
            log::error!("the store takes no writes: {error}; reading goes on");
        }
        self.health.failed(self.now_ms);
    }

    /// What is damaged stays so: whoever asks for it would fill the log.
    fn tell_of_damage(&mut self, error: &Failure) {
        if self
            .damage_told_ms
            .is_some_and(|told_ms| self.now_ms - told_ms < DAMAGE_TOLD_EVERY_MS)
        {
            return;
        }
        self.damage_told_ms = Some(self.now_ms);
        log::error!(
            "the database is damaged ({error}); what lies on damaged pages fails, the rest is served. Stop this process \
             and look at the disk; then restore a backup, or save what can be read: sqlite3 im-gateway.db .recover"
        );
    }

    /// After a bug, only the storage is to be believed.
    fn forget_all(&mut self) {
        self.store.forget_all();
        self.presence.forget();
    }

    fn take_back(&mut self) {
        self.metrics.errors.inc();
        self.store.roll_back(self.now_ms);
        self.presence.take_back();
        self.pushes.clear();
        self.stored_messages = 0;
        self.swept_messages = 0;
    }

    /// Carries out `items`, then the rest of `batch`, which joins them, and commits.
    fn attempt(
        &mut self,
        items: &mut Vec<Item>,
        batch: &mut impl Batch,
        left_out: &[usize],
    ) -> Result<Vec<Outcome>, Abort> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut has_begun = false;
        for index in 0.. {
            if index == items.len() {
                // What it has to write is somebody's to wait for, as the time of its calls is.
                if index > 0 && self.store.is_laden() {
                    break;
                }
                let Some(item) = batch.next() else { break };
                items.push(item);
            }
            let item = &items[index];
            if !has_begun && !item.only_looks_up() {
                self.begin().map_err(Abort::Storage)?;
                batch.restart();
                has_begun = true;
            }
            // To wait for a storage that others use may have taken long.
            if batch.is_late(item) {
                outcomes.push(Outcome::Reply(too_late(item)));
                continue;
            }
            if left_out.contains(&index) {
                outcomes.push(Outcome::Reply(
                    item.failed(result(Code::Internal, "the service failed")),
                ));
                continue;
            }
            let pushes_before = self.pushes.len();
            let writes_before = self.store.writes();
            let done = catch_unwind(AssertUnwindSafe(|| self.carry_out(item))).map_err(|_| {
                log::error!("a call to the services panicked; it is refused");
                self.metrics.panics.inc();
                Abort::LeaveOut(index)
            })?;
            let done = done.and_then(|outcome| self.store.refuse_marks().map(|()| outcome));
            let refusal = match done {
                Ok(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
                Err(error) => {
                    let is_answer = matches!(error, Failure::Refused(..) | Failure::NoWrites);
                    let refusal = self.refusal(error)?;
                    if !is_answer {
                        if self.store.writes() != writes_before {
                            return Err(Abort::LeaveOut(index));
                        }
                        // What the storage has of it counts.
                        self.presence.forget();
                    }
                    refusal
                }
            };
            self.pushes.truncate(pushes_before);
            outcomes.push(Outcome::Reply(item.failed(refusal)));
        }
        debug_assert_eq!(outcomes.len(), items.len(), "each item has an outcome");
        self.commit().map_err(Abort::Storage)?;
        Ok(outcomes)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if let Some(duration_us) = self.store.commit(self.now_ms)? {
            self.metrics.commits.inc();
            self.metrics.commit_duration.observe_us(duration_us);
            self.last_commit = Duration::from_micros(duration_us);
            if self.health.committed(self.now_ms) {
                self.metrics.outage.end();
                log::warn!("the store takes writes again");
            }
        }
        self.presence.keep();
        let stored = std::mem::take(&mut self.stored_messages);
        let swept = std::mem::take(&mut self.swept_messages);
        if stored > 0 {
            self.metrics.messages.add(stored);
            self.metrics.batch_messages.observe(stored);
        }
        self.metrics.swept_messages.add(swept);
        Ok(())
    }

    /// The answer to a call that failed, unless its failure takes the whole batch along.
    fn refusal(&mut self, error: Failure) -> Result<proto::Result, Abort> {
        match error {
            Failure::Refused(code, words) => Ok(result(code, words)),
            Failure::NoWrites => Ok(result(Code::Unavailable, "the store takes no writes now")),
            Failure::Storage(_) if self.store.is_reads_only() => {
                Ok(result(Code::Unavailable, "the store cannot be read now"))
            }
            Failure::Storage(_) => Err(Abort::Storage(error)),
            // Some failures end the transaction behind our back: then nothing of the batch is left.
            Failure::Statement(_) | Failure::Corrupt(_) if self.store.lost_transaction() => {
                Err(Abort::Storage(error))
            }
            Failure::Corrupt(_) => {
                self.tell_of_damage(&error);
                self.metrics.errors.inc();
                Ok(result(Code::Internal, "the service failed"))
            }
            Failure::Statement(_) | Failure::Damaged(_) => {
                log::error!("a call to the services failed: {error}");
                self.metrics.errors.inc();
                Ok(result(Code::Internal, "the service failed"))
            }
        }
    }

    fn carry_out(&mut self, item: &Item) -> Result<Outcome, Failure> {
        match item {
            Item::Call(call) => self.call(&call.request),
            Item::Judged(judged) => self.judged(&judged.verdict).map(Outcome::Reply),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Outcome, Failure> {
        #[cfg(test)]
        if let Request::GetProfile(request) = request {
            assert_ne!(request.user_id, self.panics_on_profile_of);
        }
        let response: Response = match request {
            Request::Login(request) => return self.login(request),
            Request::Register(request) => return self.register(request).map(Outcome::Password),
            Request::ChangePassword(request) => {
                return self.change_password(request).map(Outcome::Password);
            }
            Request::Logout(_) => proto::LogoutResponse { result: ok() }.into(),
            // What is issued here are tokens that gateways read themselves.
            Request::VerifyToken(_) => request.failed(proto::Result {
                code: Code::Unauthenticated.into(),
                msg: "no such token was issued here".to_owned(),
            }),
            Request::CheckSession(request) => self.judge_session(request)?.into(),
            Request::EndSession(request) => self.end_session(request)?.into(),
            Request::EndAllSessions(request) => self.end_all_sessions(request)?.into(),
            Request::AddFriend(request) => self.add_friend(request)?.into(),
            Request::RemoveFriend(request) => self.remove_friend(request)?.into(),
            Request::GetFriends(request) => self.get_friends(request)?.into(),
            Request::GetProfile(request) => self.get_profile(request)?.into(),
            Request::Search(request) => self.search(request)?.into(),
            Request::BindRoute(request) => self.bind_route(request)?.into(),
            Request::UnbindRoute(request) => self.unbind_route(request)?.into(),
            Request::RefreshRoutes(request) => self.refresh_routes(request)?.into(),
            Request::QueryRoute(request) => self.query_route(request)?.into(),
            Request::Deliver(request) => self.deliver(request)?.into(),
            Request::Send(request) => self.send(request)?.into(),
            Request::SendGroup(request) => self.send_group(request)?.into(),
            Request::SendBatch(request) => self.send_batch(request)?.into(),
            Request::PullOffline(request) => self.pull_offline(request)?.into(),
            Request::PullGroup(request) => self.pull_group(request)?.into(),
            Request::Ack(request) => self.ack(request)?.into(),
            Request::AckBatch(request) => self.ack_batch(request)?.into(),
            Request::CreateGroup(request) => self.create_group(request)?.into(),
            Request::JoinGroup(request) => self.join_group(request)?.into(),
            Request::LeaveGroup(request) => self.leave_group(request)?.into(),
            Request::GetGroupMembers(request) => self.get_group_members(request)?.into(),
            Request::GetUserGroups(request) => self.get_user_groups(request)?.into(),
            Request::GetGroupInfo(request) => self.get_group_info(request)?.into(),
        };
        Ok(Outcome::Reply(response))
    }
}

/// A result with words for people.
pub(super) fn result(code: Code, words: &str) -> proto::Result {
    proto::Result {
        code: code.into(),
        msg: words.to_owned(),
    }
}

/// The result of what went well, wrapped as every response wants it.
pub(super) fn ok() -> Option<proto::Result> {
    Some(proto::Result::default())
}

/// A job for the password pool: `task`, to be answered as `item` would be.
pub(super) fn job(item: &Item, task: Task) -> Job {
    let (sink, call_id) = item.reply_to();
    Job {
        call_id,
        sink: Arc::clone(sink),
        deadline: item.deadline(),
        task,
    }
}

/// The answer to an item that was not begun before its deadline.
pub(super) fn too_late(item: &Item) -> Response {
    item.failed(result(
        Code::Unavailable,
        "too many calls were waiting, try again",
    ))
}

/// The answer to an item that found too many of the same user before it.
pub(super) fn too_many_calls(item: &Item) -> Response {
    item.failed(result(
        Code::Unavailable,
        "too many calls of this user are waiting, try again",
    ))
}

/// The answer to a job for which the password pool has no room.
pub(super) fn too_many_passwords(job: &Job) -> Response {
    let result = result(
        Code::Unavailable,
        "too many passwords are waiting, try again",
    );
    job.purpose().failed(result)
}
