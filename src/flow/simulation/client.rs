//! A client that believes nothing: it reads every line and holds it to the contract.

use std::collections::{BTreeMap, HashSet};

use super::model::{FORGED, Model, Random, Stream};
use crate::base::id::{ConnectionKey, MessageId, UserId};

/// What this connection was pushed of one stream since its login.
#[derive(Default)]
struct Track {
    last: u64,
    /// It was pushed something new.
    fresh: bool,
    pulled: HashSet<u64>,
}

pub struct Client {
    pub core: usize,
    pub key: ConnectionKey,
    /// Who is logged in, or was.
    pub user: UserId,
    /// Who is to log in next.
    wanted: UserId,
    pub device: String,
    pub logged_in: bool,
    pub manual: bool,
    /// Has confirmed for itself at some time.
    was_manual: bool,
    /// Has said goodbye or was told to go.
    pub over: bool,
    /// Not yet read by the gateway.
    pub outgoing: Vec<u8>,
    pub input_ended: bool,
    /// Taken by the gateway's kernel and not arrived.
    pub in_flight: Vec<u8>,
    /// Arrived, and the acknowledgement has not.
    pub unacknowledged: u64,
    pub commands: u64,
    pub replies: u64,
    /// Messages it sent and that are not answered, by the numbers of their commands.
    sends: BTreeMap<u64, String>,
    /// Messages it has and has not confirmed itself.
    pub unconfirmed: Vec<MessageId>,
    /// Messages it has read and whose they are.
    pub received: HashSet<(UserId, Stream, u64)>,
    streams: BTreeMap<Stream, Track>,
    /// With `ack=manual` since it logged in.
    always_manual: bool,
    /// Has asked to log out: what it has is no longer its to confirm.
    leaving: bool,
    line: Vec<u8>,
    /// Message lines since the last other one: whether they were pulled, the next line tells.
    waiting: Vec<Message>,
}

struct Message {
    stream: Stream,
    seq: Option<u64>,
    id: MessageId,
    from: UserId,
    duplicate: bool,
    text: String,
}

fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let head = line.split(" text=").next()?;
    head.split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number<T: std::str::FromStr>(line: &str, key: &str) -> Option<T> {
    field(line, key)?.parse().ok()
}

impl Client {
    pub fn new(core: usize, key: ConnectionKey, user: UserId, device: String) -> Self {
        Self {
            core,
            key,
            user,
            wanted: user,
            device,
            logged_in: false,
            manual: false,
            was_manual: false,
            over: false,
            outgoing: Vec::new(),
            input_ended: false,
            in_flight: Vec::new(),
            unacknowledged: 0,
            commands: 0,
            replies: 0,
            sends: BTreeMap::new(),
            unconfirmed: Vec::new(),
            received: HashSet::new(),
            streams: BTreeMap::new(),
            always_manual: false,
            leaving: false,
            line: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub fn say(&mut self, command: &str) {
        self.commands += 1;
        let line = format!("@c{} {command}\n", self.commands);
        self.outgoing.extend_from_slice(line.as_bytes());
    }

    /// A command for a random wish.
    pub fn wish(&mut self, random: &mut Random, users: u64, counter: &mut u64) {
        *counter += 1;
        let to = 1 + random.below(users);
        let group = 1 + random.below(3);
        let command = match random.below(if self.logged_in { 100 } else { 20 }) {
            0..=11 => format!("login:u{}:secret", self.wanted),
            12 => format!("set:device:{}", self.device),
            13 => "set:ack:manual".into(),
            14 => "set:ack:auto".into(),
            15 => "nonsense".into(),
            16 => "chat:x:y".into(),
            17..=19 => format!("ping:{counter}"),
            20..=69 => return self.send(random, users, counter),
            70..=74 => format!("pull:{}", 1 + random.below(20)),
            75..=84 if !self.unconfirmed.is_empty() => {
                let count = 1 + random.below(10) as usize;
                let ids = self.unconfirmed.drain(..count.min(self.unconfirmed.len()));
                ids.fold("ack".into(), |line, id| format!("{line}:{id}"))
            }
            85..=88 => format!("join_group:{group}"),
            89..=90 => format!("leave_group:{group}"),
            91 => "logout".into(),
            92 => "whoami".into(),
            93 => format!("who:{to}"),
            _ => "groups".into(),
        };
        self.say(&command);
        if command == "logout" {
            self.leaving = true;
            self.unconfirmed.clear();
        }
        // Who leaves may become somebody else.
        if command == "logout" && random.chance(50) {
            self.wanted = 1 + random.below(users) as UserId;
            self.say(&format!("login:u{}:secret", self.wanted));
        }
    }

    /// One message, or several in one breath. Its text tells whose it is and when it was sent.
    fn send(&mut self, random: &mut Random, users: u64, counter: &mut u64) {
        let count = if random.chance(30) {
            2 + random.below(6)
        } else {
            1
        };
        for _ in 0..count {
            *counter += 1;
            let (to, group) = (1 + random.below(users), 1 + random.below(3));
            let by = format!("{}-{}-{}", self.core, self.key.slot, self.key.generation);
            let (command, text) = if random.chance(60) {
                (format!("chat:{to}"), format!("d{to} {by} {counter}"))
            } else {
                (
                    format!("group_chat:{group}"),
                    format!("g{group} {by} {counter}"),
                )
            };
            self.say(&format!("{command}:{text}"));
            self.sends.insert(self.commands, text);
        }
    }

    /// The first `count` bytes that are in flight arrive.
    pub fn arrive(&mut self, count: usize, model: &Model) {
        let bytes: Vec<u8> = self.in_flight.drain(..count).collect();
        self.unacknowledged += count as u64;
        self.read(&bytes, model);
    }

    fn read(&mut self, bytes: &[u8], model: &Model) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).expect("lines are text");
            self.take_line(&line, model);
        }
    }

    fn take_line(&mut self, line: &str, model: &Model) {
        assert!(!self.over, "after the end: {line}");
        if model.forgeries > 0 && line.ends_with(&format!(" text={FORGED}")) {
            // Nobody can tell, so it is confirmed as any other.
            let id: MessageId = number(line, "id").expect("an id");
            self.unconfirmed
                .extend((self.manual && !self.leaving).then_some(id));
            return;
        }
        if line.starts_with("MSG ") || line.starts_with("GMSG ") {
            let message = self.message(line);
            self.waiting.push(message);
            return;
        }
        let reply = line
            .strip_prefix('@')
            .map(|tagged| tagged.split_once(' ').expect("a reply"));
        let pulled = reply.and_then(|(_, reply)| reply.strip_prefix("+OK pull_done"));
        self.settle(
            pulled.map_or(0, |rest| number(rest, "count").expect("a count")),
            model,
        );
        match reply {
            None if line.starts_with("KICK ") => self.over = true,
            None if line.starts_with("NOTICE ") => {}
            None => panic!("neither a push nor a tagged reply: {line}"),
            Some((tag, reply)) => {
                self.replies += 1;
                assert_eq!(
                    tag,
                    format!("c{}", self.replies),
                    "replies in the order of commands"
                );
                self.take_reply(reply, model);
            }
        }
    }

    fn take_reply(&mut self, reply: &str, model: &Model) {
        if let Some(text) = self.sends.remove(&self.replies)
            && reply.starts_with("+OK ")
        {
            let id: MessageId = number(reply, "msg_id").expect("an id");
            let (stream, seq) = model.places[&id];
            assert_eq!(
                model.stored(stream, seq).text,
                text,
                "its own message is stored"
            );
        }
        if let Some(session) = number(reply, "session") {
            assert!(!self.logged_in);
            self.logged_in = true;
            self.user = number(reply, "uid").expect("a user");
            self.streams.clear();
            self.leaving = false;
            self.always_manual = self.manual;
            let last = model.baselines[&session];
            let track = Track {
                last,
                ..Track::default()
            };
            self.streams.insert(Stream::Direct(self.user), track);
        } else if reply == "+OK logout" {
            self.logged_in = false;
            self.unconfirmed.clear();
        } else if let Some(mode) = reply.strip_prefix("+OK ack=") {
            self.manual = mode == "manual";
            self.was_manual |= self.manual;
            self.always_manual &= self.manual;
        }
    }

    fn message(&self, line: &str) -> Message {
        assert!(self.logged_in, "nobody is logged in: {line}");
        let stream = match number(line, "group") {
            Some(group) => Stream::Group(group),
            None => Stream::Direct(number(line, "to").unwrap_or(self.user)),
        };
        let text = line.split_once(" text=").expect("a text").1;
        let address = match stream {
            Stream::Direct(user) => format!("d{user} "),
            Stream::Group(group) => format!("g{group} "),
        };
        assert!(text.starts_with(&address), "not for {}: {line}", self.user);
        Message {
            stream,
            seq: number(line, "seq"),
            id: number(line, "id").expect("an id"),
            from: number(line, "from").expect("a sender"),
            duplicate: field(line, "dup").is_some(),
            text: text.to_owned(),
        }
    }

    /// The last `pulled` waiting lines were asked for; those before are pushes.
    fn settle(&mut self, pulled: usize, model: &Model) {
        let mut pushes = std::mem::take(&mut self.waiting);
        let asked_for = pushes.split_off(pushes.len() - pulled);
        for message in pushes {
            self.pushed(&message, model);
        }
        for message in asked_for {
            let seq = self
                .note(&message, model)
                .expect("a pulled message has a number");
            self.streams
                .entry(message.stream)
                .or_default()
                .pulled
                .insert(seq);
        }
    }

    fn note(&mut self, message: &Message, model: &Model) -> Option<u64> {
        let Some(seq) = message.seq else {
            assert_eq!(message.from, self.user, "a copy is for its sender");
            return None;
        };
        let stored = model.stored(message.stream, seq);
        assert_eq!((stored.id, &stored.text), (message.id, &message.text));
        assert!(stored.readers.contains(&self.user), "not for {}", self.user);
        self.received.insert((self.user, message.stream, seq));
        if self.manual && !self.leaving && stored.from != self.user {
            self.unconfirmed.push(message.id);
        }
        Some(seq)
    }

    fn pushed(&mut self, message: &Message, model: &Model) {
        let Some(seq) = self.note(message, model) else {
            return;
        };
        if message.duplicate {
            // A stream that goes back does not know any more what came out long ago.
            let track = self.streams.entry(message.stream).or_default();
            let goes_back = track.fresh && model.forgeries > 0;
            assert!(
                !track.fresh || goes_back,
                "what comes again comes before what is new in its stream"
            );
            if goes_back {
                track.last = track.last.max(seq);
            }
            return;
        }
        let user = self.user;
        let begun = self
            .streams
            .get(&message.stream)
            .is_some_and(|track| track.last > 0);
        let first = matches!(message.stream, Stream::Group(_)) && !begun;
        let track = self.streams.entry(message.stream).or_default();
        assert!(
            !track.pulled.contains(&seq) || model.forgeries > 0 && !self.always_manual,
            "{seq} came twice"
        );
        assert!(
            seq > track.last || model.forgeries > 0 && self.was_manual,
            "{:?}: {seq} after {}",
            message.stream,
            track.last
        );
        let (stream, missing) = (message.stream, track.last + 1..seq);
        for seq in missing.filter(|_| !first) {
            let stored = model.stored(message.stream, seq);
            // A forgery may have been the last before it was throttled; then the real one waits for
            // `pull`.
            let excused = track.pulled.contains(&seq)
                || model.forgeries > 0
                || stored.from == user
                || !model.is_owed(stream, seq, user);
            assert!(
                excused,
                "user {user} was not pushed {:?} {seq}, last {}",
                message.stream, track.last
            );
        }
        track.last = seq;
        track.fresh = true;
    }

    /// Everything has come to rest: nothing may be missing at the end either.
    pub fn check_complete(&mut self, model: &Model) {
        self.settle(0, model);
        if !self.logged_in || self.over || self.manual {
            return;
        }
        for (stream, track) in &self.streams {
            for seq in track.last + 1..=model.last_seq(*stream) {
                let stored = model.stored(*stream, seq);
                let excused = track.last == 0 && matches!(stream, Stream::Group(_))
                    || track.pulled.contains(&seq)
                    || model.forgeries > 0
                    || stored.from == self.user && matches!(stream, Stream::Group(_))
                    || !model.is_owed(*stream, seq, self.user);
                assert!(excused, "user {} is still owed {stream:?} {seq}", self.user);
            }
        }
    }

    /// What was cut off may have been pulled or pushed.
    pub fn gone(&mut self, model: &Model) {
        for message in std::mem::take(&mut self.waiting) {
            self.note(&message, model);
        }
    }
}
