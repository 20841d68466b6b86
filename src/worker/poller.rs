//! The sockets of one core in one edge-triggered epoll set, in which the core waits when it has
//! nothing to do.
//!
//! Why not a glommio stream per connection: a poll request and a task for each cost memory and a
//! trip through the ring per message, where one set costs one system call per batch (figures in
//! `docs/architecture.md`).
//!
//! Invariant: an event is a hint. Whoever gets one reads or writes until the kernel says "would
//! block".

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use super::outbound::OutboundKey;
use crate::base::id::ConnectionKey;

/// How many events one look at the set takes at most, so that no burst of sockets keeps a turn from
/// ending.
const EVENTS_PER_TURN: usize = 256;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Connections wait to be accepted at the listener of this number.
    Listener(u8),
    /// Another thread left something in the core's inbox.
    Inbox,
    /// A connection before its first request can be read.
    Arrival(ConnectionKey),
    /// A client's socket can be read or written.
    Connection(ConnectionKey),
    /// A socket that the core opened itself can be read or written.
    Outbound(OutboundKey),
}

// Slots are slab indices, far below this.
const INBOX: u64 = u64::MAX;
/// The listener with the number 0; the others stand below it.
const FIRST_LISTENER: u64 = INBOX - 1;
const LAST_LISTENER: u64 = FIRST_LISTENER - u8::MAX as u64;
/// Marks the slot of an outbound connection.
const OUTBOUND: u32 = 1 << 31;
/// Marks the slot of a connection before its first request.
const ARRIVAL: u32 = 1 << 30;

impl Source {
    fn encode(self) -> u64 {
        match self {
            Self::Listener(number) => FIRST_LISTENER - u64::from(number),
            Self::Inbox => INBOX,
            Self::Connection(key) => pack(key.generation, key.slot),
            Self::Arrival(key) => pack(key.generation, key.slot | ARRIVAL),
            Self::Outbound(key) => pack(key.generation, key.slot | OUTBOUND),
        }
    }

    fn decode(data: u64) -> Self {
        match data {
            INBOX => Self::Inbox,
            LAST_LISTENER..=FIRST_LISTENER => Self::Listener((FIRST_LISTENER - data) as u8),
            data => {
                let (generation, slot) = ((data >> 32) as u32, data as u32);
                if slot & OUTBOUND != 0 {
                    let slot = slot & !OUTBOUND;
                    Self::Outbound(OutboundKey { slot, generation })
                } else if slot & ARRIVAL != 0 {
                    let slot = slot & !ARRIVAL;
                    Self::Arrival(ConnectionKey { slot, generation })
                } else {
                    Self::Connection(ConnectionKey { slot, generation })
                }
            }
        }
    }
}

fn pack(generation: u32, slot: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

/// One event: what it is about and what happened there.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// What it is about.
    pub source: Source,
    /// There is something to read, an end of stream included.
    pub readable: bool,
    /// The peer has closed its sending side: an end of stream follows what there is to read,
    /// without another event.
    pub ending: bool,
    /// There is room to write.
    pub(super) writable: bool,
    /// The connection is broken in both directions.
    pub broken: bool,
}

/// The epoll set of one core.
pub struct Poller {
    set: Rc<OwnedFd>,
    events: Vec<Event>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// Where no descriptor is free.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            set: Rc::new(epoll::create(CreateFlags::CLOEXEC)?),
            events: Vec::with_capacity(EVENTS_PER_TURN),
        })
    }

    /// The set, for others of the core to add to.
    pub fn set(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.set)
    }

    /// Adds a non-blocking descriptor; closing it takes it out again.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn add(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        add(&self.set, fd, source)
    }

    /// What happens to a descriptor that was added is about something else from now on; what it has
    /// is told again.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub(super) fn watch_as(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let data = EventData::new_u64(source.encode());
        Ok(epoll::modify(&*self.set, fd, data, interest(source))?)
    }

    /// Takes a descriptor out without closing it.
    pub fn remove(&self, fd: impl AsFd) {
        // It can only fail where the descriptor is not in the set, which is what was asked for.
        let _ = epoll::delete(&*self.set, fd);
    }

    /// Waits until something is ready, at most `longest_ms`, and appends it to `into`.
    ///
    /// Blocks the thread: nothing else of the core may be ready to run.
    ///
    /// # Errors
    /// What `epoll_wait` says, interruptions aside.
    pub fn wait(&mut self, longest_ms: u64, into: &mut Vec<Readiness>) -> io::Result<()> {
        debug_assert!(into.is_empty());
        let timeout = Timespec {
            tv_sec: (longest_ms / 1000).try_into().unwrap_or(i64::MAX),
            tv_nsec: (longest_ms % 1000 * 1_000_000) as i64,
        };
        self.events.clear();
        match epoll::wait(&*self.set, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        into.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Readiness {
                source: Source::decode(event.data.u64()),
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP),
                ending: flags.contains(EventFlags::RDHUP),
                writable: flags.contains(EventFlags::OUT),
                broken: flags.contains(EventFlags::ERR)
                    || flags.contains(EventFlags::HUP) && !flags.contains(EventFlags::IN),
            }
        }));
        Ok(())
    }
}

/// Adds a non-blocking descriptor to `set`; closing it takes it out again.
///
/// # Errors
/// What `epoll_ctl` says.
pub fn add(set: &OwnedFd, fd: impl AsFd, source: Source) -> io::Result<()> {
    let data = EventData::new_u64(source.encode());
    Ok(epoll::add(set, fd, data, interest(source))?)
}

/// What of a descriptor is to be told.
fn interest(source: Source) -> EventFlags {
    match source {
        // Level-triggered: accepting is bounded per turn, and the rest must be reported again.
        Source::Listener(_) => EventFlags::IN,
        Source::Inbox => EventFlags::IN | EventFlags::ET,
        Source::Connection(_) | Source::Arrival(_) | Source::Outbound(_) => {
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
        }
    }
}
