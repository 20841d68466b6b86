//! Messages: storing each once, with the next number of its stream, and telling whoever is
//! connected.
//!
//! Invariants: a message and its number are one row of one transaction; numbers of a stream have no
//! hole; a repeat stores and publishes nothing. A message is a repeat only if it is the stored one
//! in all that its sender said: under the same `msg_id` the sender, stream, time, tag and text;
//! under the same sender's `client_msg_id`, within [`REPEAT_WINDOW_MS`], the stream and text. Else
//! the call is refused, and no id is ever replaced by another: the caller would take a second
//! message for stored.

use super::{
    engine::{Engine, ok, result},
    store::{Failure, Storage, StreamId, storage::Draft},
};
use crate::{
    base::id::{GroupId, MessageId},
    contract::{bus::Channel, methods::Answer},
    proto::{self, Code, PushMessage, send_batch_item::Message as BatchMessage},
};

/// How long a sender's own id of a message is remembered: 24 hours.
pub(super) const REPEAT_WINDOW_MS: i64 = 24 * 60 * 60 * 1000;
/// Messages of one call, at most: far above what a gateway sends.
const BATCH_ITEMS: usize = 1024;
/// Longest text and longest `client_msg_id`, in bytes: far above what a line can carry.
const TEXT_BYTES: usize = 1 << 20;
const CLIENT_MSG_ID_BYTES: usize = 128;
/// Each attempt removes one cause of a conflict, and there are two.
const INSERT_ATTEMPTS: usize = 3;

/// Ids tried for one message: more than a worker gives in a millisecond.
const ID_ATTEMPTS: usize = 8192;

const ID_TAKEN: Failure = Failure::Refused(Code::Conflict, "the id is another message's");
const TAG_TAKEN: Failure = Failure::Refused(
    Code::Invalid,
    "the client's message id is another message's",
);
const INBOX_FULL: Failure = Failure::Refused(Code::Unavailable, "inbox full");

/// How storing ended.
enum Stored {
    New(MessageId),
    Repeat(MessageId),
}

impl<S: Storage> Engine<S> {
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
            is_own_id: false,
            is_own_time: false,
            stored_ms: self.now_ms,
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
        // If the last of the receiver's routes has expired, its marks end here, before the new
        // number.
        self.load_routes(msg.to)?;
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
        self.publish_direct(push, &msg.text, request.session_id)?;
        Ok(proto::SendResponse {
            result: ok(),
            msg_id,
            duplicate: false,
        })
    }

    /// To every route of the receiver, and a copy to every route of the sender for its other
    /// devices.
    fn publish_direct(
        &mut self,
        push: PushMessage,
        text: &str,
        session_id: u64,
    ) -> Result<(), Failure> {
        let (from, to) = (push.from, push.to);
        if self.is_bound(to)? {
            let push = PushMessage {
                text: text.to_owned(),
                ..push.clone()
            };
            self.push_to(to, push)?;
        }
        if from != to && self.is_bound(from)? {
            let copy = PushMessage {
                text: text.to_owned(),
                to_many: vec![from],
                session_id,
                seq: 0,
                ..push
            };
            self.push_to(from, copy)?;
        }
        Ok(())
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
            is_own_id: false,
            is_own_time: false,
            stored_ms: self.now_ms,
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
        let has_room = self.store.group_has_room(group, |storage, member| {
            presence.may_be_bound(storage, member)
        })?;
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

    /// Stores messages one after the other, each with an answer of its own.
    ///
    /// # Errors
    /// What is not the fault of one message: then none counts.
    pub(super) fn send_batch(
        &mut self,
        request: &proto::SendBatchRequest,
    ) -> Result<proto::SendBatchResponse, Failure> {
        if request.items.len() > BATCH_ITEMS {
            return Err(Failure::Refused(Code::Invalid, "too many messages"));
        }
        let mut results = Vec::with_capacity(request.items.len());
        let mut conflict = false;
        for item in &request.items {
            let result = if conflict {
                // It may not overtake the one that is sent again.
                refused(
                    Code::Conflict,
                    "a message before this one has to be sent again",
                )
            } else {
                self.send_item(item)?
            };
            conflict |= result.code() == Code::Conflict;
            results.push(result);
        }
        Ok(proto::SendBatchResponse {
            result: ok(),
            results,
        })
    }

    fn send_item(
        &mut self,
        item: &proto::SendBatchItem,
    ) -> Result<proto::SendBatchResult, Failure> {
        let pushes_before = self.pushes.len();
        let stored = match &item.message {
            Some(BatchMessage::Direct(send)) => self
                .send(send)
                .map(|stored| (stored.msg_id, stored.duplicate)),
            Some(BatchMessage::Group(send)) => self
                .send_group(send)
                .map(|stored| (stored.msg_id, stored.duplicate)),
            None => Err(Failure::Refused(Code::Invalid, "no message")),
        };
        match stored {
            Ok((msg_id, duplicate)) => Ok(proto::SendBatchResult {
                result: ok(),
                msg_id,
                duplicate,
            }),
            Err(Failure::Refused(code, words)) => {
                self.pushes.truncate(pushes_before);
                Ok(refused(code, words))
            }
            Err(of_the_store) => Err(of_the_store),
        }
    }

    /// Refuses what can never be stored and fills in what was left out.
    fn check(&mut self, draft: &mut Draft<'_>) -> Result<(), Failure> {
        if draft.sender <= 0 {
            return Err(Failure::Refused(Code::Invalid, "not a sender"));
        }
        if draft.stream.owner() <= 0 {
            // Nobody has such a number, or one so great that it is no stream's owner.
            return Err(Failure::Refused(Code::NotFound, "no such user or group"));
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
            draft.ts_ms = self.unix_ms;
            draft.is_own_time = true;
        }
        if draft.msg_id <= 0 {
            draft.msg_id = self.own_message_id()?;
            draft.is_own_id = true;
        }
        Ok(())
    }

    /// Stores `draft` as number `seq` of its stream, unless it is a repeat.
    ///
    /// The insert itself finds conflicts, so that a message without one costs one statement.
    fn insert(&mut self, draft: &mut Draft<'_>, seq: u64) -> Result<Stored, Failure> {
        for _ in 0..INSERT_ATTEMPTS {
            if self.store.write()?.insert_message(draft, seq)? {
                self.store.advance(draft.stream, seq);
                self.stored_messages += 1;
                return Ok(Stored::New(draft.msg_id));
            }
            if let Some(msg_id) = self.find_repeat(draft)? {
                return Ok(Stored::Repeat(msg_id));
            }
            if draft.is_own_id && self.store.read().message_by_id(draft.msg_id)?.is_some() {
                // Another process gave it, too: that is not the same message.
                draft.msg_id = self.unused_message_id()?;
            } else if let Some(client_msg_id) = draft.client_msg_id {
                // An old message gives up its sender's id, which is free again.
                let before_ms = self.now_ms - REPEAT_WINDOW_MS;
                self.store
                    .write()?
                    .release_client_id(draft.sender, client_msg_id, before_ms)?;
            }
        }
        Err(Failure::Damaged("the numbers of a stream"))
    }

    /// An id for a message that came without one.
    fn own_message_id(&mut self) -> Result<MessageId, Failure> {
        self.message_ids
            .next(u64::try_from(self.unix_ms).unwrap_or(0))
            .ok_or(Failure::Damaged("the ids of messages are used up"))
    }

    /// The next id that no message has. Another process that gives ids under the same worker number
    /// may have been here.
    fn unused_message_id(&mut self) -> Result<MessageId, Failure> {
        for _ in 0..ID_ATTEMPTS {
            let msg_id = self.own_message_id()?;
            if self.store.read().message_by_id(msg_id)?.is_none() {
                return Ok(msg_id);
            }
        }
        Err(Failure::Damaged("the ids of messages"))
    }

    /// The message that `draft` repeats, if it repeats one.
    ///
    /// # Errors
    /// Its id or its tag is another message's.
    fn find_repeat(&self, draft: &Draft<'_>) -> Result<Option<MessageId>, Failure> {
        let rows = self.store.read();
        if let Some(client_msg_id) = draft.client_msg_id {
            let after_ms = self.now_ms - REPEAT_WINDOW_MS;
            let first = rows.message_by_client_id(draft.sender, client_msg_id, after_ms)?;
            if let Some(first) = first {
                // Its time may differ: the client says the line again, and the gateway stamps it
                // anew.
                let is_repeat = first.says_the_same_as(draft);
                return is_repeat.then_some(Some(first.msg_id)).ok_or(TAG_TAKEN);
            }
        }
        if draft.is_own_id {
            // The message is new, and another process may have given the id, too.
            return Ok(None);
        }
        match rows.message_by_id(draft.msg_id)? {
            None => Ok(None),
            Some(stored) if stored.is_repeated_by(draft) => Ok(Some(stored.msg_id)),
            Some(_) => Err(ID_TAKEN),
        }
    }
}

/// The answer to a message that is left out of its batch.
fn refused(code: Code, words: &str) -> proto::SendBatchResult {
    proto::SendBatchResult {
        result: Some(result(code, words)),
        ..Default::default()
    }
}
