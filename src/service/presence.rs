//! Presence: which devices of a user are connected, and where.
//!
//! Owns the table of routes, in memory only: routes die with the process, as the connections do that they name.
//! Invariants: a user in the table has at least one route; a session is bound at most once; changes of a batch that
//! is taken back are undone ([`Presence::take_back`]).

use std::collections::HashMap;

use prost::Message as _;
use smallvec::SmallVec;

use super::{
    engine::{Engine, ok},
    store::{Failure, StreamId},
};
use crate::{
    bus::Channel,
    id::{RouteId, SessionId, UserId},
    proto::{self, Code, PushKind, PushMessage},
};

/// Devices per user where the caller names no limit, and at most.
const DEFAULT_MAX_DEVICES: usize = 5;
const HIGHEST_MAX_DEVICES: usize = 64;
/// Longest name of a device and of a route, in bytes.
const NAME_BYTES: usize = 256;
/// Of those who have a user in their friend list, at most so many are looked at when the user comes online.
const FOLLOWERS_TOLD: u32 = 1000;

/// What most devices are called, as nearly all clients leave their name to the gateway: such a name is not kept.
const USUAL_DEVICE: &str = "cli";
/// Routes whose text is shared among all that are bound to them.
const SHARED_ROUTES: usize = 1024;

/// One connected device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) route: RouteId,
    pub(super) session_id: SessionId,
    /// `None`: [`USUAL_DEVICE`].
    device: Option<Box<str>>,
}

impl Bound {
    fn new(route: RouteId, session_id: SessionId, device: &str) -> Self {
        Self {
            route,
            session_id,
            device: (device != USUAL_DEVICE).then(|| device.into()),
        }
    }

    fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(USUAL_DEVICE)
    }
}

/// The devices of one user: nearly always one.
type Devices = SmallVec<[Bound; 1]>;

/// The table of routes.
#[derive(Default)]
pub(super) struct Presence {
    /// In the order of binding, the newest last.
    users: HashMap<UserId, Devices>,
    /// What the users changed by this batch had before.
    before: HashMap<UserId, Devices>,
    /// Routes in use, or once in use: as many as there are cores that bind.
    routes: Vec<RouteId>,
}

impl Presence {
    /// Whether any device of `user` is connected.
    pub(super) fn is_bound(&self, user: UserId) -> bool {
        self.users.contains_key(&user)
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
    fn share(&mut self, route: RouteId) -> RouteId {
        if let Some(known) = self.routes.iter().find(|known| **known == route) {
            return known.clone();
        }
        if self.routes.len() < SHARED_ROUTES {
            self.routes.push(route.clone());
        }
        route
    }

    fn bind(&mut self, user: UserId, new: Bound, max_devices: usize) -> Vec<Bound> {
        self.remember(user);
        let devices = self.users.entry(user).or_default();
        devices.retain(|bound| bound.session_id != new.session_id);
        let mut displaced = Vec::new();
        if let Some(index) = devices.iter().position(|bound| bound.device == new.device) {
            displaced.push(devices.remove(index));
        }
        let excess = (devices.len() + 1).saturating_sub(max_devices);
        displaced.extend(devices.drain(..excess));
        devices.push(new);
        displaced
    }

    /// Takes the session out; `true`: it was the user's last.
    fn unbind(&mut self, user: UserId, session_id: SessionId) -> bool {
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

    fn remember(&mut self, user: UserId) {
        let users = &self.users;
        self.before
            .entry(user)
            .or_insert_with(|| users.get(&user).cloned().unwrap_or_default());
    }

    /// The batch is committed.
    pub(super) fn keep(&mut self) {
        self.before.clear();
    }

    /// The batch is taken back: so are its changes here.
    pub(super) fn take_back(&mut self) {
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
fn parse_route(text: &str) -> Result<RouteId, Failure> {
    text.rsplit_once('#')
        .filter(|(gateway_id, _)| !gateway_id.is_empty() && text.len() <= NAME_BYTES)
        .and_then(|(gateway_id, core)| Some(RouteId::new(gateway_id, core.parse().ok()?)))
        .ok_or(Failure::Refused(Code::Invalid, "not a route id"))
}

impl Engine {
    pub(super) fn bind_route(
        &mut self,
        request: &proto::BindRouteRequest,
    ) -> Result<proto::BindRouteResponse, Failure> {
        let user = request.user_id;
        let route = parse_route(&request.gateway_id)?;
        if request.session_id == 0 || request.device.len() > NAME_BYTES {
            return Err(Failure::Refused(Code::Invalid, "not a session"));
        }
        let is_first = !self.presence.is_bound(user);
        if !self.store.load_inbox(user, !is_first)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        if is_first {
            self.open_cursors(user)?;
        }
        let max_devices = match request.max_devices as usize {
            0 => DEFAULT_MAX_DEVICES,
            limit => limit.min(HIGHEST_MAX_DEVICES),
        };
        let route = self.presence.share(route);
        let bound = Bound::new(route, request.session_id, &request.device);
        let displaced = self.presence.bind(user, bound, max_devices);
        for gone in &displaced {
            let kick = PushMessage {
                to: user,
                kind: PushKind::Kick.into(),
                text: "replaced".to_owned(),
                session_id: gone.session_id,
                device: gone.device().to_owned(),
                ..Default::default()
            };
            self.pushes.push((Channel::Route(gone.route.clone()), kick));
        }
        if is_first {
            self.tell_followers(user)?;
        }
        Ok(proto::BindRouteResponse {
            result: ok(),
            displaced: displaced.iter().map(route_message).collect(),
            last_seq: Some(self.store.last_seq(StreamId::inbox(user))),
        })
    }

    /// From now on, what is published for `user` counts as handed out. Written with the bind, so that it holds after a crash.
    fn open_cursors(&mut self, user: UserId) -> Result<(), Failure> {
        for stream in self.streams_of(user)? {
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor((stream, user)) {
                cursor.open(last_seq);
                self.store.mark_urgent((stream, user));
            }
        }
        Ok(())
    }

    fn close_cursors(&mut self, user: UserId) -> Result<(), Failure> {
        for stream in self.streams_of(user)? {
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor((stream, user)) {
                cursor.close(last_seq);
                self.store.mark_dirty((stream, user));
            }
        }
        Ok(())
    }

    /// The streams `user` reads, each loaded with the user's cursor.
    pub(super) fn streams_of(&mut self, user: UserId) -> Result<Vec<StreamId>, Failure> {
        let mut streams = self.store.group_streams(user)?;
        for &stream in &streams {
            if let Some(group) = stream.group_id() {
                self.load_group(group)?;
                self.store.load_member(stream, user)?;
            }
        }
        if self.load_inbox(user)? {
            streams.insert(0, StreamId::inbox(user));
        }
        Ok(streams)
    }

    /// Remembers an inbox; `false`: no such user.
    pub(super) fn load_inbox(&mut self, user: UserId) -> Result<bool, Failure> {
        self.store.load_inbox(user, self.presence.is_bound(user))
    }

    /// Remembers a group; `false`: no such group.
    pub(super) fn load_group(&mut self, group: i64) -> Result<bool, Failure> {
        let presence = &self.presence;
        self.store
            .load_group(group, |member| presence.is_bound(member))
    }

    fn tell_followers(&mut self, user: UserId) -> Result<(), Failure> {
        let online: Vec<UserId> = self
            .followers(user, FOLLOWERS_TOLD)?
            .into_iter()
            .filter(|follower| *follower != user && self.presence.is_bound(*follower))
            .collect();
        if online.is_empty() {
            return Ok(());
        }
        let name = self.name_of(user)?.unwrap_or_default();
        for follower in online {
            let notice = PushMessage {
                from: user,
                to: follower,
                ts_ms: self.now_ms,
                kind: PushKind::Notice.into(),
                text: format!("friend_online uid={user} name={name}"),
                ..Default::default()
            };
            self.push_to(follower, notice);
        }
        Ok(())
    }

    /// Publishes `push` to every route of `user`.
    pub(super) fn push_to(&mut self, user: UserId, push: PushMessage) {
        let mut routes = self.presence.routes(user);
        let Some(mut route) = routes.next() else {
            return;
        };
        // Nearly every user has one route: the message itself goes to the last one, copies to the others.
        for next in routes {
            self.pushes
                .push((Channel::Route(route.clone()), push.clone()));
            route = next;
        }
        self.pushes.push((Channel::Route(route.clone()), push));
    }

    pub(super) fn unbind_route(
        &mut self,
        request: &proto::UnbindRouteRequest,
    ) -> Result<proto::UnbindRouteResponse, Failure> {
        if self.presence.unbind(request.user_id, request.session_id) {
            self.close_cursors(request.user_id)?;
        }
        Ok(proto::UnbindRouteResponse { result: ok() })
    }

    pub(super) fn query_route(
        &mut self,
        request: &proto::QueryRouteRequest,
    ) -> Result<proto::QueryRouteResponse, Failure> {
        let user = request.user_id;
        if !self.presence.is_bound(user) && !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let routes: Vec<_> = self
            .presence
            .devices(user)
            .iter()
            .map(route_message)
            .collect();
        Ok(proto::QueryRouteResponse {
            result: ok(),
            gateway_id: routes
                .last()
                .map(|route| route.gateway_id.clone())
                .unwrap_or_default(),
            routes,
        })
    }

    pub(super) fn deliver(
        &mut self,
        request: &proto::DeliverRequest,
    ) -> Result<proto::DeliverResponse, Failure> {
        let mut push = PushMessage::decode(request.payload.as_slice())
            .ok()
            .filter(|_| !request.payload.is_empty())
            .ok_or(Failure::Refused(Code::Invalid, "not a push message"))?;
        let user = request.to;
        if !self.presence.is_bound(user) && !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        if push.to == 0 {
            push.to = user;
        }
        self.push_to(user, push);
        Ok(proto::DeliverResponse { result: ok() })
    }
}

fn route_message(bound: &Bound) -> proto::Route {
    proto::Route {
        gateway_id: bound.route.as_str().to_owned(),
        session_id: bound.session_id,
        device: bound.device().to_owned(),
    }
}
