//! What the services ask of a storage: typed operations on rows, in transactions.
//!
//! Owns the traits alone; `sqlite` implements them. Everything that is said in SQL, or in another
//! language of storage, is behind them. An operation that changes rows takes `&mut self` and is
//! called within a transaction only; a read sees what the open transaction has changed.
//! `docs/storage.md` says what an implementation over another database has to give.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{CursorKey, Failure, StreamId};
use crate::{
    base::id::{GroupId, MessageId, SessionId, UserId},
    service::cursor::Cursor,
};

/// Everything the services ask of a storage.
pub(in crate::service) trait Storage:
    Transactions + Times + Accounts + Sessions + Groups + Messages + Cursors + Routes
{
}

impl<S: Transactions + Times + Accounts + Sessions + Groups + Messages + Cursors + Routes> Storage
    for S
{
}

/// How the store's own time follows from that since the machine's start, and how late it was when
/// somebody last looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) struct TimeBase {
    /// Names the machine's start.
    pub(in crate::service) boot: String,
    /// What to add to the time since.
    pub(in crate::service) offset_ms: i64,
    /// The store's time when this was written.
    pub(in crate::service) last_ms: i64,
    /// The time of day when this was written.
    pub(in crate::service) last_unix_ms: i64,
}

/// The store's own time: all that ages in it does so by this one (`service/clock.rs`).
pub(in crate::service) trait Times {
    /// What was put last; `None`: nothing yet.
    fn time_base(&self) -> Result<Option<TimeBase>, Failure>;

    /// Puts it in the place of what is there.
    fn put_time_base(&mut self, base: &TimeBase) -> Result<(), Failure>;
}

/// Beginning and ending, and what keeps a storage fit.
pub(in crate::service) trait Transactions {
    /// Begins a transaction that may write. Where others use the storage, waits for them, but not
    /// for ever; from here to the end nobody else changes anything, and all that others have
    /// committed is seen.
    fn begin(&mut self) -> Result<(), Failure>;

    /// For how long others have kept this process from beginning one; zero: they do not.
    fn kept_from_writing(&self) -> Duration;

    /// Begins a transaction that only reads: what it sees is of one moment. It is ended by
    /// [`Transactions::roll_back`].
    fn begin_reading(&mut self) -> Result<(), Failure>;

    /// Within a transaction: a number that is another than at the last look if anybody else has
    /// committed since.
    fn version(&self) -> Result<i64, Failure>;

    /// Makes the open transaction last: once this returns, nothing takes it back. After a failure
    /// it is open still.
    fn commit(&mut self) -> Result<(), Failure>;

    /// Takes the open transaction back, if there is one.
    fn roll_back(&mut self);

    /// Whether a transaction is open: a failing storage may end one by itself.
    fn in_transaction(&self) -> bool;

    /// Writes what is there already, to see whether writing works: it does if the commit succeeds.
    fn probe(&mut self) -> Result<(), Failure>;

    /// Work that a quiet moment is for, so that a busy one need not. `shorten`: and gives back the
    /// room that can be given back.
    fn tidy(&mut self, shorten: bool);

    /// Where nobody else uses the storage: has everything that was committed in the one main file,
    /// and leaves that as it is, so that it can be copied, until [`Transactions::let_go`]. Writing
    /// goes on. What is returned says whether it still is as it was.
    fn hold_file(&mut self) -> Result<Arc<AtomicBool>, Failure>;

    /// The main file may change again.
    fn let_go(&mut self);

    /// Room that the log of what was committed takes, in bytes.
    fn log_bytes(&self) -> u64;

    /// Where others use the storage and the log is longer than `long_bytes`: gives back the room,
    /// which cannot wait for a quiet moment any more. `true`: it cannot be, since somebody has been
    /// reading since the last attempt.
    fn shorten_log(&mut self, long_bytes: u64) -> bool;
}

/// Users and their contacts.
pub(in crate::service) trait Accounts {
    /// The user of this name, with the hash of the password.
    fn account(&self, name: &str) -> Result<Option<(UserId, String)>, Failure>;

    /// How many users there are.
    fn user_count(&self) -> Result<u64, Failure>;

    /// The hash of a user's password.
    fn password_hash(&self, user: UserId) -> Result<Option<String>, Failure>;

    /// Gives a user another one; `false`: there is no such user.
    fn set_password_hash(&mut self, user: UserId, hash: &str) -> Result<bool, Failure>;

    /// Whether there is such a user.
    fn user_exists(&self, user: UserId) -> Result<bool, Failure>;

    /// What a user is called.
    fn name_of(&self, user: UserId) -> Result<Option<String>, Failure>;

    /// Whether a user has a name of this skeleton.
    fn looks_taken(&self, skeleton: &str) -> Result<bool, Failure>;

    /// At most `limit` names of this skeleton.
    fn names_alike(&self, skeleton: &str, limit: u32) -> Result<Vec<String>, Failure>;

    /// Inserts a user of this name and skeleton; `None`: one of them is taken.
    fn insert_user(
        &mut self,
        name: (&str, &str),
        hash: &str,
        now_ms: i64,
    ) -> Result<Option<UserId>, Failure>;

    /// When `user` was last noted to log in from `network`; `None`: never, or forgotten since.
    fn network_seen_ms(&self, user: UserId, network: &[u8]) -> Result<Option<i64>, Failure>;

    /// Notes that `user` logged in from `network`, and keeps the `limit` networks seen last.
    fn remember_network(
        &mut self,
        user: UserId,
        network: &[u8],
        now_ms: i64,
        limit: u32,
    ) -> Result<(), Failure>;

    /// At most `limit` users whose names start with `prefix`, in the order of the bytes of their
    /// names.
    fn users_by_prefix(&self, prefix: &str, limit: u32) -> Result<Vec<(UserId, String)>, Failure>;

    /// Puts `friend` on the list of `user`, where it may stand already; `false`: there are `limit`
    /// others.
    fn insert_friend(&mut self, user: UserId, friend: UserId, limit: u32) -> Result<bool, Failure>;

    /// Takes `friend` off the list of `user`.
    fn delete_friend(&mut self, user: UserId, friend: UserId) -> Result<(), Failure>;

    /// The list of `user`, ascending.
    fn friends(&self, user: UserId) -> Result<Vec<UserId>, Failure>;

    /// Whether `friend` is on the list of `user`.
    fn is_friend(&self, user: UserId, friend: UserId) -> Result<bool, Failure>;

    /// The list of `user`, those first who have `user` on theirs.
    fn friends_mutual_first(&self, user: UserId) -> Result<Vec<UserId>, Failure>;

    /// At most `limit` of those who have `user` on their list and are not on the list of `user`.
    fn followers(&self, user: UserId, limit: u32) -> Result<Vec<UserId>, Failure>;
}

/// When all sessions of a user were ended the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::service) struct SessionEpoch {
    /// How often that has been.
    pub(in crate::service) number: u64,
    /// When it was.
    pub(in crate::service) since_ms: i64,
    /// The one session that went on; 0: none did.
    pub(in crate::service) kept_session: SessionId,
}

/// Which sessions were ended before their tokens' time.
pub(in crate::service) trait Sessions {
    /// The epoch of a user; the first one where no sessions were ever ended together.
    fn session_epoch(&self, user: UserId) -> Result<SessionEpoch, Failure>;

    /// Begins another epoch, in which no single session of the user has been ended yet.
    fn begin_session_epoch(&mut self, user: UserId, epoch: &SessionEpoch) -> Result<(), Failure>;

    /// Whether this one session was ended.
    fn is_session_ended(&self, user: UserId, session: SessionId) -> Result<bool, Failure>;

    /// How many single sessions of a user were ended.
    fn ended_session_count(&self, user: UserId) -> Result<u32, Failure>;

    /// Notes that a session was ended; from `expires_ms` on, its tokens are good for nothing
    /// anyway.
    fn insert_ended_session(
        &mut self,
        user: UserId,
        session: SessionId,
        expires_ms: i64,
    ) -> Result<(), Failure>;

    /// Whether there is an ended session whose tokens have expired at `now_ms`.
    fn has_expired_sessions(&self, now_ms: i64) -> Result<bool, Failure>;

    /// Forgets at most `limit` such sessions.
    fn delete_expired_sessions(&mut self, now_ms: i64, limit: usize) -> Result<(), Failure>;
}

/// What a group says about itself.
pub(in crate::service) struct GroupFacts {
    pub(in crate::service) name: String,
    pub(in crate::service) description: String,
    pub(in crate::service) creator: UserId,
}

/// Groups, but for who is in them: that is [`Cursors`].
pub(in crate::service) trait Groups {
    /// Inserts a group.
    fn insert_group(&mut self, facts: &GroupFacts, now_ms: i64) -> Result<GroupId, Failure>;

    /// Whether there is such a group. There is for ever, once there was.
    fn group_exists(&self, group: GroupId) -> Result<bool, Failure>;

    /// What a group says about itself.
    fn group_facts(&self, group: GroupId) -> Result<Option<GroupFacts>, Failure>;
}

/// A message before it is stored.
pub(in crate::service) struct Draft<'a> {
    pub(in crate::service) msg_id: MessageId,
    /// Whether the services gave the id themselves, rather than the caller.
    pub(in crate::service) is_own_id: bool,
    /// Whether the services gave the time themselves: then it says nothing about a repeat.
    pub(in crate::service) is_own_time: bool,
    /// When it is stored, by the store's time.
    pub(in crate::service) stored_ms: i64,
    pub(in crate::service) stream: StreamId,
    pub(in crate::service) sender: UserId,
    pub(in crate::service) ts_ms: i64,
    pub(in crate::service) client_msg_id: Option<&'a str>,
    pub(in crate::service) text: &'a str,
}

/// A stored message.
pub(in crate::service) struct StoredMessage {
    pub(in crate::service) msg_id: MessageId,
    pub(in crate::service) seq: u64,
    pub(in crate::service) sender: UserId,
    pub(in crate::service) ts_ms: i64,
    pub(in crate::service) text: String,
}

/// A stored message as far as it tells whether another one is the same.
pub(in crate::service) struct Original {
    pub(in crate::service) msg_id: MessageId,
    pub(in crate::service) stream: StreamId,
    pub(in crate::service) sender: UserId,
    pub(in crate::service) ts_ms: i64,
    pub(in crate::service) client_msg_id: Option<String>,
    pub(in crate::service) text: String,
}

impl Original {
    /// Whether `draft`, which has the same id, is this message sent once more.
    pub(in crate::service) fn is_repeated_by(&self, draft: &Draft<'_>) -> bool {
        self.sender == draft.sender
            && self.says_the_same_as(draft)
            && (draft.is_own_time || self.ts_ms == draft.ts_ms)
            && self.client_msg_id.as_deref() == draft.client_msg_id
    }

    /// Whether `draft` has the same text for the same receiver or group.
    pub(in crate::service) fn says_the_same_as(&self, draft: &Draft<'_>) -> bool {
        self.stream == draft.stream && self.text == draft.text
    }
}

/// Where a stored message stands.
pub(in crate::service) struct Place {
    pub(in crate::service) msg_id: MessageId,
    pub(in crate::service) stream: StreamId,
    pub(in crate::service) seq: u64,
    /// When it was stored, by the store's time.
    pub(in crate::service) stored_ms: i64,
}

/// Messages and the numbers of their streams.
///
/// Three things are unique, and the storage sees to it: a message's id, its number in its stream,
/// and its sender together with the sender's own id of it.
pub(in crate::service) trait Messages {
    /// Inserts a message as number `seq` of its stream; `false`: something that must be unique is
    /// there already.
    fn insert_message(&mut self, draft: &Draft<'_>, seq: u64) -> Result<bool, Failure>;

    /// The message of this id.
    fn message_by_id(&self, msg_id: MessageId) -> Result<Option<Original>, Failure>;

    /// The message that `sender` calls `client_msg_id`, if it was stored after `after_ms`.
    fn message_by_client_id(
        &self,
        sender: UserId,
        client_msg_id: &str,
        after_ms: i64,
    ) -> Result<Option<Original>, Failure>;

    /// The message that `sender` calls `client_msg_id` is called so no longer, if it was not stored
    /// after `before_ms`.
    fn release_client_id(
        &mut self,
        sender: UserId,
        client_msg_id: &str,
        before_ms: i64,
    ) -> Result<(), Failure>;

    /// The streams of those of these messages that there are, and their numbers there.
    fn places_of(&self, msg_ids: &[MessageId]) -> Result<Vec<(StreamId, u64)>, Failure>;

    /// At most `limit` messages of a stream with numbers in `from..=to`, ascending.
    fn messages(
        &self,
        stream: StreamId,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, Failure>;

    /// At most `limit` messages of any stream with ids above `position`, ascending.
    fn places_behind(&self, position: MessageId, limit: usize) -> Result<Vec<Place>, Failure>;

    /// Deletes a message.
    fn delete_message(&mut self, msg_id: MessageId) -> Result<(), Failure>;

    /// The greatest id of a message, 0 if there is none.
    fn last_message_id(&self) -> Result<MessageId, Failure>;

    /// The greatest number a stream ever gave, as far as its messages or
    /// [`Messages::keep_last_seq`] tell; 0 if it gave none.
    fn last_seq(&self, stream: StreamId) -> Result<u64, Failure>;

    /// Notes the greatest number a stream gave, before its message goes.
    fn keep_last_seq(&mut self, stream: StreamId, last_seq: u64) -> Result<(), Failure>;
}

/// Where every reader of a stream stands. A cursor in a group's stream is a membership.
pub(in crate::service) trait Cursors {
    /// One reader's cursor.
    fn cursor(&self, key: CursorKey) -> Result<Option<Cursor>, Failure>;

    /// Inserts or replaces a cursor.
    fn write_cursor(&mut self, key: CursorKey, cursor: &Cursor) -> Result<(), Failure>;

    /// Deletes a cursor.
    fn delete_cursor(&mut self, key: CursorKey) -> Result<(), Failure>;

    /// Shows every cursor of a stream to `visit`, in the order of the users.
    fn each_cursor(
        &self,
        stream: StreamId,
        visit: impl FnMut(UserId, Cursor) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// Shows up to where every reader of a stream has confirmed everything.
    fn each_floor(&self, stream: StreamId, visit: impl FnMut(UserId, u64)) -> Result<(), Failure>;

    /// At most `limit` readers of a stream with numbers above `after`, ascending.
    fn readers(
        &self,
        stream: StreamId,
        after: UserId,
        limit: usize,
    ) -> Result<Vec<UserId>, Failure>;

    /// How many readers a stream has.
    fn reader_count(&self, stream: StreamId) -> Result<u32, Failure>;

    /// The streams of the groups `user` is in, ascending.
    fn group_streams(&self, user: UserId) -> Result<Vec<StreamId>, Failure>;
}

/// A route as it is stored.
pub(in crate::service) struct StoredRoute {
    pub(in crate::service) session_id: SessionId,
    pub(in crate::service) route: String,
    pub(in crate::service) device: String,
    /// The session of the login that the connection belongs to; 0: not known.
    pub(in crate::service) login_session: SessionId,
    pub(in crate::service) expires_ms: i64,
}

/// On which gateway each device of a user is connected. Unused where routes live in memory.
pub(in crate::service) trait Routes {
    /// All routes of a user, expired ones too, in the order of binding.
    fn routes(&self, user: UserId) -> Result<Vec<StoredRoute>, Failure>;

    /// Whether a user has any route, be it expired.
    fn has_route(&self, user: UserId) -> Result<bool, Failure>;

    /// Inserts the route of a session, or replaces it; either way it is now the one bound last.
    fn put_route(&mut self, user: UserId, route: &StoredRoute) -> Result<(), Failure>;

    /// Deletes the route of a session.
    fn delete_route(&mut self, user: UserId, session_id: SessionId) -> Result<(), Failure>;

    /// Deletes all routes of a user.
    fn delete_routes(&mut self, user: UserId) -> Result<(), Failure>;

    /// Deletes all routes of all users.
    fn delete_all_routes(&mut self) -> Result<(), Failure>;

    /// The sessions of all routes of a user over `route` that have not expired at `now_ms`.
    fn sessions_over(
        &self,
        user: UserId,
        route: &str,
        now_ms: i64,
    ) -> Result<Vec<SessionId>, Failure>;

    /// The route of a session expires at `expires_ms`.
    fn refresh_route(
        &mut self,
        user: UserId,
        session_id: SessionId,
        expires_ms: i64,
    ) -> Result<(), Failure>;

    /// All routes expire by so much later.
    fn delay_routes(&mut self, by_ms: i64) -> Result<(), Failure>;

    /// Notes that a user's last route is gone, which the friends are to be told of when `due_ms`
    /// comes.
    fn put_departure(&mut self, user: UserId, due_ms: i64) -> Result<(), Failure>;

    /// The user is back, or the friends are told: there is nothing to tell any more.
    fn delete_departure(&mut self, user: UserId) -> Result<(), Failure>;

    /// At most `limit` users whose departures are due at `now_ms`.
    fn due_departures(&self, now_ms: i64, limit: usize) -> Result<Vec<UserId>, Failure>;

    /// When the first route expires; `None`: there are no routes.
    fn first_expiry_ms(&self) -> Result<Option<i64>, Failure>;

    /// At most `limit` users with a route that has expired at `now_ms`.
    fn users_with_expired_routes(&self, now_ms: i64, limit: usize) -> Result<Vec<UserId>, Failure>;
}
