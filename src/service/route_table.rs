//! The table of routes: which devices of a user are connected, over which core of which gateway.
//!
//! In a gateway that serves alone it is in memory only: routes die with the process, as the
//! connections do that they name. In a backend it is what is remembered of the routes in the
//! storage, which outlive the process and expire.
//!
//! Invariants: a session is bound at most once; changes of a batch that is taken back are undone
//! ([`Presence::take_back`]); an expired route counts nowhere; in a backend, a user's cursors are
//! open only while the user has a route in the storage, as the transaction that takes the last one
//! closes them.

use std::{collections::HashMap, time::Duration};

use smallvec::SmallVec;

use super::{
    engine::Engine,
    store::{
        Failure, Storage,
        storage::{Routes, StoredRoute},
    },
};
use crate::{
    base::id::{RouteId, SessionId, UserId},
    proto::Code,
};

/// Longest name of a device and of a route, in bytes.
pub(super) const NAME_BYTES: usize = 256;
/// What most devices are called, as nearly all clients leave their name to the gateway: such a name
/// is not kept.
const USUAL_DEVICE: &str = "cli";
/// Routes whose text is shared among all that are bound to them.
const SHARED_ROUTES: usize = 1024;

/// Users whose routes a backend remembers at most: some 100 bytes each.
const REMEMBERED_USERS: usize = 262_144;
/// Users whose expired routes are taken out at once.
const EXPIRED_AT_ONCE: usize = 256;

/// When a route expires that does not.
const NEVER_MS: i64 = i64::MAX;

/// One connected device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) route: RouteId,
    pub(super) session_id: SessionId,
    /// The session of the login that it belongs to; 0: not known.
    pub(super) login_session: SessionId,
    /// `None`: [`USUAL_DEVICE`].
    device: Option<Box<str>>,
    expires_ms: i64,
}

impl Bound {
    pub(super) fn new(
        route: RouteId,
        (session_id, login_session): (SessionId, SessionId),
        device: &str,
        expires_ms: i64,
    ) -> Self {
        Self {
            route,
            session_id,
            login_session,
            device: (device != USUAL_DEVICE).then(|| device.into()),
            expires_ms,
        }
    }

    pub(super) fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(USUAL_DEVICE)
    }
}

/// The devices of one user: nearly always one.
type Devices = SmallVec<[Bound; 1]>;

/// The table of routes.
pub(super) struct Presence {
    /// In the order of binding, the newest last. In a backend, no devices means that none are in
    /// the storage.
    users: HashMap<UserId, Devices>,
    /// What the users changed by this batch had before; in a backend nothing.
    before: HashMap<UserId, Devices>,
    /// Routes in use, or once in use: as many as there are cores that bind.
    routes: Vec<RouteId>,
    /// In a backend: how long a route counts, in milliseconds. `None`: routes live here alone, and
    /// as long as they are bound.
    lifetime_ms: Option<i64>,
}

impl Presence {
    /// Routes that live in memory.
    pub(super) fn in_memory() -> Self {
        Self {
            users: HashMap::new(),
            before: HashMap::new(),
            routes: Vec::new(),
            lifetime_ms: None,
        }
    }

    /// Routes that live in the storage and count for `lifetime` after they were bound or refreshed.
    pub(super) fn in_storage(lifetime: Duration) -> Self {
        Self {
            lifetime_ms: Some(i64::try_from(lifetime.as_millis()).unwrap_or(NEVER_MS)),
            ..Self::in_memory()
        }
    }

    /// Whether routes live in the storage.
    pub(super) fn is_in_storage(&self) -> bool {
        self.lifetime_ms.is_some()
    }

    /// When a route expires that is bound or refreshed now.
    pub(super) fn expiry_ms(&self, now_ms: i64) -> i64 {
        self.lifetime_ms
            .map_or(NEVER_MS, |lifetime_ms| now_ms.saturating_add(lifetime_ms))
    }

    /// Whether `user` has a route, be it one that has expired and was not taken out yet: as long as
    /// this is so, the user's cursors may be open.
    pub(super) fn may_be_bound(
        &self,
        storage: &impl Routes,
        user: UserId,
    ) -> Result<bool, Failure> {
        let is_known = self
            .users
            .get(&user)
            .is_some_and(|devices| !devices.is_empty());
        Ok(is_known || (self.is_in_storage() && storage.has_route(user)?))
    }

    /// The connected devices of `user`, the newest last.
    pub(super) fn devices(&self, user: UserId) -> &[Bound] {
        self.users.get(&user).map_or(&[], Devices::as_slice)
    }

    /// The routes of `user`, each once.
    pub(super) fn routes(&self, user: UserId) -> impl Iterator<Item = &RouteId> {
        let devices = self.devices(user);
        devices
            .iter()
            .enumerate()
            .filter(|(index, bound)| {
                !devices[..*index]
                    .iter()
                    .any(|earlier| earlier.route == bound.route)
            })
            .map(|(_, bound)| &bound.route)
    }

    /// `route`, with the text of those bound to it before.
    pub(super) fn share(&mut self, route: RouteId) -> RouteId {
        if let Some(known) = self.routes.iter().find(|known| **known == route) {
            return known.clone();
        }
        if self.routes.len() < SHARED_ROUTES {
            self.routes.push(route.clone());
        }
        route
    }

    pub(super) fn bind(&mut self, user: UserId, new: Bound, max_devices: usize) -> Vec<Bound> {
        self.remember(user);
        let devices = self.users.entry(user).or_default();
        devices.retain(|bound| bound.session_id != new.session_id);
        let mut displaced = Vec::new();
        if let Some(index) = devices.iter().position(|bound| bound.device == new.device) {
            displaced.push(devices.remove(index));
        }
        while devices.len() >= max_devices
            && let Some(oldest) = (0..devices.len()).min_by_key(|index| devices[*index].session_id)
        {
            displaced.push(devices.remove(oldest));
        }
        devices.push(new);
        displaced
    }

    /// Whether sessions that began after `new` have taken its place already: one of the same
    /// device, or as many as there may be. Ids of sessions grow with time.
    pub(super) fn is_replaced(&self, user: UserId, new: &Bound, max_devices: usize) -> bool {
        let devices = self.devices(user).iter();
        let newer = devices.filter(|bound| bound.session_id > new.session_id);
        newer.clone().any(|bound| bound.device == new.device) || newer.count() >= max_devices
    }

    /// Takes the session out, which has to be there; `true`: it was the user's last.
    pub(super) fn unbind(&mut self, user: UserId, session_id: SessionId) -> bool {
        self.remember(user);
        let Some(devices) = self.users.get_mut(&user) else {
            return false;
        };
        devices.retain(|bound| bound.session_id != session_id);
        let gone = devices.is_empty();
        if gone {
            self.users.remove(&user);
        }
        gone
    }

    /// Notes what a user has before it changes. In a backend the storage knows.
    fn remember(&mut self, user: UserId) {
        if self.is_in_storage() {
            return;
        }
        let users = &self.users;
        self.before
            .entry(user)
            .or_insert_with(|| users.get(&user).cloned().unwrap_or_default());
    }

    /// The route of a session of `user` expires later.
    fn refresh(&mut self, user: UserId, session_id: SessionId, expires_ms: i64) {
        let devices = self.users.get_mut(&user).into_iter().flatten();
        for bound in devices.filter(|bound| bound.session_id == session_id) {
            bound.expires_ms = expires_ms;
        }
    }

    /// How many users are remembered.
    #[cfg(debug_assertions)]
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// S3 to S5, between two batches.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        for (user, devices) in &self.users {
            for (index, bound) in devices.iter().enumerate() {
                let earlier = &devices[..index];
                let is_bound = earlier.iter().any(|e| e.session_id == bound.session_id);
                assert!(!is_bound, "S3: a session of user {user} is bound twice");
                let has_device = earlier.iter().any(|e| e.device == bound.device);
                let is_in_memory = !self.is_in_storage();
                assert!(
                    !(is_in_memory && has_device),
                    "S3: a device of user {user} is bound twice"
                );
                assert_eq!(
                    is_in_memory,
                    bound.expires_ms == NEVER_MS,
                    "S3: when a route of user {user} expires"
                );
            }
            assert!(
                self.is_in_storage() || !devices.is_empty(),
                "S3: user {user} has no device"
            );
        }
        let routes: std::collections::HashSet<&str> =
            self.routes.iter().map(RouteId::as_str).collect();
        assert_eq!(routes.len(), self.routes.len(), "S4: a route twice");
        assert!(self.routes.len() <= SHARED_ROUTES, "S4: too many routes");
        assert!(self.before.is_empty(), "S5: a batch could be taken back");
    }

    /// What the storage has to say is asked again.
    pub(super) fn forget(&mut self) {
        if self.is_in_storage() {
            self.users.clear();
        }
    }

    /// The batch is committed.
    pub(super) fn keep(&mut self) {
        self.before.clear();
        if self.users.len() > REMEMBERED_USERS {
            self.forget();
        }
    }

    /// The batch is taken back: so are its changes here.
    pub(super) fn take_back(&mut self) {
        self.forget();
        for (user, devices) in self.before.drain() {
            if devices.is_empty() {
                self.users.remove(&user);
            } else {
                self.users.insert(user, devices);
            }
        }
    }
}

/// A route as it travels, `<gateway_id>#<core>`.
pub(super) fn parse_route(text: &str) -> Result<RouteId, Failure> {
    text.rsplit_once('#')
        .filter(|(gateway_id, _)| !gateway_id.is_empty() && text.len() <= NAME_BYTES)
        .and_then(|(gateway_id, core)| Some(RouteId::new(gateway_id, core.parse().ok()?)))
        .ok_or(Failure::Refused(Code::Invalid, "not a route id"))
}

impl<S: Storage> Engine<S> {
    /// Where routes live in the storage, writes one.
    pub(super) fn put_route(&mut self, user: UserId, bound: &Bound) -> Result<(), Failure> {
        if !self.presence.is_in_storage() {
            return Ok(());
        }
        let row = StoredRoute {
            session_id: bound.session_id,
            route: bound.route.as_str().to_owned(),
            device: bound.device().to_owned(),
            login_session: bound.login_session,
            expires_ms: bound.expires_ms,
        };
        self.store.write()?.put_route(user, &row)
    }

    /// Where routes live in the storage, deletes one.
    pub(super) fn delete_route(
        &mut self,
        user: UserId,
        session_id: SessionId,
    ) -> Result<(), Failure> {
        if !self.presence.is_in_storage() {
            return Ok(());
        }
        self.store.write()?.delete_route(user, session_id)
    }

    /// Where routes live in the storage, those of `user` over `route` count for longer whose
    /// session is among `sessions`, which is sorted; where it is empty, all of them. `false`: there
    /// was none.
    pub(super) fn refresh_routes_of(
        &mut self,
        user: UserId,
        route: &str,
        sessions: &[SessionId],
    ) -> Result<bool, Failure> {
        let expires_ms = self.presence.expiry_ms(self.now_ms);
        let mut has_refreshed = false;
        for session_id in self.store.read().sessions_over(user, route, self.now_ms)? {
            // One that is not listed has ended and could not be unbound: it is left to expire.
            if sessions.is_empty() || sessions.binary_search(&session_id).is_ok() {
                let rows = self.store.write()?;
                rows.refresh_route(user, session_id, expires_ms)?;
                self.presence.refresh(user, session_id, expires_ms);
                has_refreshed = true;
            }
        }
        Ok(has_refreshed)
    }

    /// Whether any device of `user` is connected.
    pub(super) fn is_bound(&mut self, user: UserId) -> Result<bool, Failure> {
        self.load_routes(user)?;
        Ok(!self.presence.devices(user).is_empty())
    }

    /// Remembers the routes of `user` that count now; those that have expired end here.
    pub(super) fn load_routes(&mut self, user: UserId) -> Result<(), Failure> {
        if !self.presence.is_in_storage() {
            return Ok(());
        }
        let now_ms = self.now_ms;
        let known = self.presence.users.get(&user);
        if known.is_some_and(|devices| devices.iter().all(|bound| bound.expires_ms > now_ms)) {
            return Ok(());
        }
        self.read_routes(user)
    }

    /// Reads the routes of `user` out of the storage and takes out those that have expired, as if
    /// each were unbound, and those that name no core: nobody can be reached over them.
    fn read_routes(&mut self, user: UserId) -> Result<(), Failure> {
        let rows = self.store.read().routes(user)?;
        let mut devices = Devices::new();
        let mut useless = Vec::new();
        for row in rows {
            let is_over = row.expires_ms <= self.now_ms;
            let route = parse_route(&row.route).ok().filter(|_| !is_over);
            let Some(route) = route else {
                useless.push(row.session_id);
                continue;
            };
            let route = self.presence.share(route);
            let sessions = (row.session_id, row.login_session);
            devices.push(Bound::new(route, sessions, &row.device, row.expires_ms));
        }
        let is_over = devices.is_empty();
        self.presence.users.insert(user, devices);
        if useless.is_empty() || self.store.is_reads_only() {
            return Ok(());
        }
        for session_id in useless {
            self.store.write()?.delete_route(user, session_id)?;
        }
        if is_over {
            self.close_cursors(user)?;
            self.has_gone(user)?;
        }
        Ok(())
    }

    /// Whether any route has expired that is still in the storage. Looks without waiting for
    /// anybody.
    pub(super) fn has_expired_routes(&self, now_ms: i64) -> bool {
        self.presence.is_in_storage()
            && match self.store.read().first_expiry_ms() {
                Ok(first) => first.is_some_and(|first| first <= now_ms),
                Err(error) => {
                    log::warn!("cannot look for expired routes: {error}");
                    false
                }
            }
    }

    /// Takes expired routes out, a few at a time.
    pub(super) fn expire_routes(&mut self) -> Result<(), Failure> {
        if !self.presence.is_in_storage() {
            return Ok(());
        }
        let users = self
            .store
            .read()
            .users_with_expired_routes(self.now_ms, EXPIRED_AT_ONCE)?;
        for user in users {
            match self.read_routes(user) {
                Err(
                    error @ (Failure::Statement(_) | Failure::Corrupt(_) | Failure::Damaged(_)),
                ) if !self.store.lost_transaction() => {
                    // Were they left, they would be tried again for ever. Their gateways bind again
                    // whoever is there.
                    log::error!("routes of user {user} do not expire and are deleted: {error}");
                    self.presence.forget();
                    self.store.write()?.delete_routes(user)?;
                }
                done => done?,
            }
        }
        Ok(())
    }
}
