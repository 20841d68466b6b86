//! Messages: storing each once, with the next number of its stream, and telling whoever is connected.
//!
//! Invariants: a message and its number are one row of one transaction; numbers of a stream have no hole; a repeat (the same
//! sender's `client_msg_id` within [`REPEAT_WINDOW_MS`], or the same `msg_id`) stores and publishes nothing.

use rusqlite::{OptionalExtension, ffi, params};

use super::{
    engine::{Engine, ok},
    store::{Failure, StreamId},
};
use crate::{
    bus::Channel,
    id::{GroupId, MessageId, UserId},
    proto::{self, Code, PushMessage},
};

/// How long a sender's own id of a message is remembered: 24 hours.
pub(super) const REPEAT_WINDOW_MS: i64 = 24 * 60 * 60 * 1000;
/// Longest text and longest `client_msg_id`, in bytes: far above what a line can carry.
const TEXT_BYTES: usize = 1 << 20;
const CLIENT_MSG_ID_BYTES: usize = 128;
/// Each attempt removes one cause of a conflict, and there are three.
const INSERT_ATTEMPTS: usize = 4;

const INBOX_FULL: Failure = Failure::Refused(Code::Unavailable, "inbox full");

/// A message before it is stored.
struct Draft<'a> {
    msg_id: MessageId,
    stream: StreamId,
    sender: UserId,
    ts_ms: i64,
    client_msg_id: Option<&'a str>,
    text: &'a str,
}

/// How storing ended.
enum Stored {
    New(MessageId),
    Repeat(MessageId),
}

impl Engine {
    pub(super) fn send(
        &mut self,
        request: &proto::SendRequest,
    ) -> Result<proto::SendResponse, Failure> {
        let msg = request
            .msg
            .as_ref()
            .ok_or(Failure::Refused(Code::Invalid, "no message"))?;
        let mut draft = Draft {
            msg_id: msg.msg_id,
            stream: StreamId::inbox(msg.to),
            sender: msg.from,
            ts_ms: msg.ts_ms,
            client_msg_id: Some(request.client_msg_id.as_str()),
            text: &msg.text,
        };
        self.check(&mut draft)?;
        if !self.load_inbox(msg.to)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let last_seq = self.store.last_seq(draft.stream);
        let unconfirmed = self
            .store
            .cursor((draft.stream, msg.to))
            .map_or(0, |cursor| cursor.unconfirmed(last_seq));
        let stored = if unconfirmed >= self.store.inbox_limit() {
            // What is already stored stays stored, however full the inbox became since.
            Stored::Repeat(self.find_repeat(&draft)?.ok_or(INBOX_FULL)?)
        } else {
            self.insert(&mut draft, last_seq + 1)?
        };
        let msg_id = match stored {
            Stored::New(msg_id) => msg_id,
            Stored::Repeat(msg_id) => {
                return Ok(proto::SendResponse {
                    result: ok(),
                    msg_id,
                    duplicate: true,
                });
            }
        };
        let push = PushMessage {
            msg_id,
            from: msg.from,
            to: msg.to,
            ts_ms: draft.ts_ms,
            seq: last_seq + 1,
            ..Default::default()
        };
        self.publish_direct(push, &msg.text, request.session_id);
        Ok(proto::SendResponse {
            result: ok(),
            msg_id,
            duplicate: false,
        })
    }

    /// To every route of the receiver, and a copy to every route of the sender for its other devices.
    fn publish_direct(&mut self, push: PushMessage, text: &str, session_id: u64) {
        let (from, to) = (push.from, push.to);
        if self.presence.is_bound(to) {
            let push = PushMessage {
                text: text.to_owned(),
                ..push.clone()
            };
            self.push_to(to, push);
        }
        if from != to && self.presence.is_bound(from) {
            let copy = PushMessage {
                text: text.to_owned(),
                to_many: vec![from],
                session_id,
                seq: 0,
                ..push
            };
            self.push_to(from, copy);
        }
    }

    pub(super) fn send_group(
        &mut self,
        request: &proto::SendGroupRequest,
    ) -> Result<proto::SendGroupResponse, Failure> {
        let msg = request
            .msg
            .as_ref()
            .ok_or(Failure::Refused(Code::Invalid, "no message"))?;
        let group: GroupId = msg.group_id;
        let mut draft = Draft {
            msg_id: msg.msg_id,
            stream: StreamId::group(group),
            sender: msg.from,
            ts_ms: msg.ts_ms,
            client_msg_id: Some(request.client_msg_id.as_str()),
            text: &msg.text,
        };
        self.check(&mut draft)?;
        if !self.load_group(group)? {
            return Err(Failure::Refused(Code::NotFound, "no such group"));
        }
        if self.store.load_member(draft.stream, msg.from)?.is_none() {
            return Err(Failure::Refused(Code::Forbidden, "not a member"));
        }
        let last_seq = self.store.last_seq(draft.stream);
        let presence = &self.presence;
        let has_room = self
            .store
            .group_has_room(group, |member| presence.is_bound(member))?;
        let stored = if has_room {
            self.insert(&mut draft, last_seq + 1)?
        } else {
            Stored::Repeat(self.find_repeat(&draft)?.ok_or(INBOX_FULL)?)
        };
        let (msg_id, duplicate) = match stored {
            Stored::New(msg_id) => (msg_id, false),
            Stored::Repeat(msg_id) => (msg_id, true),
        };
        if !duplicate {
            let seq = last_seq + 1;
            // The sender knows what it wrote.
            if let Some(cursor) = self.store.cursor((draft.stream, msg.from)) {
                cursor.confirm(seq, seq, seq);
                self.store.mark_dirty((draft.stream, msg.from));
            }
            let push = PushMessage {
                msg_id,
                from: msg.from,
                ts_ms: draft.ts_ms,
                text: msg.text.clone(),
                group_id: group,
                session_id: request.session_id,
                seq,
                ..Default::default()
            };
            self.pushes.push((Channel::Group(group), push));
        }
        Ok(proto::SendGroupResponse {
            result: ok(),
            msg_id,
            duplicate,
        })
    }

    /// Refuses what can never be stored and fills in what was left out.
    fn check(&mut self, draft: &mut Draft<'_>) -> Result<(), Failure> {
        if draft.sender <= 0 || draft.stream.owner() <= 0 {
            return Err(Failure::Refused(Code::Invalid, "not a user or group"));
        }
        if draft.text.len() > TEXT_BYTES {
            return Err(Failure::Refused(Code::Invalid, "the text is too long"));
        }
        draft.client_msg_id = draft.client_msg_id.filter(|id| !id.is_empty());
        if draft
            .client_msg_id
            .is_some_and(|id| id.len() > CLIENT_MSG_ID_BYTES)
        {
            return Err(Failure::Refused(
                Code::Invalid,
                "the client's message id is too long",
            ));
        }
        if draft.ts_ms <= 0 {
            draft.ts_ms = self.now_ms;
        }
        if draft.msg_id <= 0 {
            draft.msg_id = self.own_message_id();
        }
        Ok(())
    }

    /// Stores `draft` as number `seq` of its stream, unless it is a repeat.
    ///
    /// The insert itself finds conflicts, so that a message without one costs one statement.
    fn insert(&mut self, draft: &mut Draft<'_>, seq: u64) -> Result<Stored, Failure> {
        for _ in 0..INSERT_ATTEMPTS {
            let inserted = self
                .store
                .write()?
                .prepare_cached(
                    "INSERT INTO messages (msg_id, stream, seq, sender, ts_ms, client_msg_id, text)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    draft.msg_id,
                    draft.stream.row(),
                    seq as i64,
                    draft.sender,
                    draft.ts_ms,
                    draft.client_msg_id,
                    draft.text,
                ]);
            match inserted {
                Ok(_) => {
                    self.store.advance(draft.stream, seq);
                    self.stored_messages += 1;
                    return Ok(Stored::New(draft.msg_id));
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(msg_id) = self.find_repeat(draft)? {
                return Ok(Stored::Repeat(msg_id));
            }
            if self.sender_of(draft.msg_id)?.is_some() {
                // Somebody else's id: ours is not the same message.
                draft.msg_id = self.own_message_id();
            } else {
                self.release_client_msg_id(draft)?;
            }
        }
        Err(Failure::Damaged("the numbers of a stream"))
    }

    /// An id for a message that came without one, or with somebody else's.
    fn own_message_id(&mut self) -> MessageId {
        self.message_ids
            .next(u64::try_from(self.now_ms).unwrap_or(0))
    }

    /// The message that `draft` repeats, if it repeats one.
    fn find_repeat(&self, draft: &Draft<'_>) -> Result<Option<MessageId>, Failure> {
        if self.sender_of(draft.msg_id)? == Some(draft.sender) {
            return Ok(Some(draft.msg_id));
        }
        let Some(client_msg_id) = draft.client_msg_id else {
            return Ok(None);
        };
        let first = self
            .store
            .read()
            .prepare_cached(
                "SELECT msg_id FROM messages WHERE sender = ?1 AND client_msg_id = ?2 AND ts_ms > ?3",
            )?
            .query_row(
                params![draft.sender, client_msg_id, self.now_ms - REPEAT_WINDOW_MS],
                |row| row.get(0),
            )
            .optional()?;
        Ok(first)
    }

    fn sender_of(&self, msg_id: MessageId) -> Result<Option<UserId>, Failure> {
        Ok(self
            .store
            .read()
            .prepare_cached("SELECT sender FROM messages WHERE msg_id = ?1")?
            .query_row([msg_id], |row| row.get(0))
            .optional()?)
    }

    /// An old message gives up its sender's id, which is free again.
    fn release_client_msg_id(&mut self, draft: &Draft<'_>) -> Result<(), Failure> {
        let before_ms = self.now_ms - REPEAT_WINDOW_MS;
        self.store
            .write()?
            .prepare_cached(
                "UPDATE messages SET client_msg_id = NULL
                 WHERE sender = ?1 AND client_msg_id = ?2 AND ts_ms <= ?3",
            )?
            .execute(params![draft.sender, draft.client_msg_id, before_ms])?;
        Ok(())
    }
}

fn is_conflict(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_ROWID
                | ffi::SQLITE_CONSTRAINT_UNIQUE
        )
    })
}
