//! Handing messages out and confirming them: pulls, fetches by number, acknowledgements.
//!
//! Invariants: a pull deletes nothing; a page is bounded in messages and in bytes; what a page
//! hands out is marked in the same batch, before the reply; an acknowledgement by id is durable
//! before its reply, one by range soon after.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{
    cursor::Cursor,
    engine::{Engine, ok},
    store::{Failure, Storage, StreamId, storage::StoredMessage},
};
use crate::{
    base::id::{MessageId, UserId},
    proto::{self, Code},
};

/// Messages of a page where the caller names no number, and at most.
const DEFAULT_PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;
/// Text of a page, in bytes; the first message of a page always fits.
const PAGE_TEXT_BYTES: usize = 512 * 1024;
/// How long a page is on the wire, but for a single text that is longer by itself.
pub(crate) const PAGE_BYTES: usize = PAGE_TEXT_BYTES + LONGEST_PAGE * MESSAGE_FACTS_BYTES;
/// What a message of a page has beside its text: seven fields.
const MESSAGE_FACTS_BYTES: usize = 80;
/// Ids or ranges of one acknowledgement.
const ACKS_LIMIT: usize = 10_000;
/// Rows read ahead per stream while streams are merged.
const READ_AHEAD: std::ops::RangeInclusive<usize> = 4..=256;

/// Which messages of an inbox are asked for.
#[derive(Clone, Copy)]
enum Wanted {
    /// All that are not confirmed.
    Unconfirmed,
    /// Those that were handed out before, too.
    Redelivery,
}

impl Wanted {
    fn next(self, cursor: &Cursor, from: u64, last_seq: u64) -> Option<(u64, u64)> {
        match self {
            Self::Unconfirmed => cursor.next_unconfirmed(from, last_seq),
            Self::Redelivery => cursor.next_redelivery(from, last_seq),
        }
    }
}

/// One stream of a merge: the unconfirmed messages of it, in the order of their numbers.
struct Source {
    stream: StreamId,
    next_seq: u64,
    rows: VecDeque<StoredMessage>,
}

/// A page while it is filled.
struct Page {
    limit: usize,
    count: usize,
    text_bytes: usize,
}

impl Page {
    fn new(limit: u32) -> Self {
        let limit = match limit as usize {
            0 => DEFAULT_PAGE,
            limit => limit.min(LONGEST_PAGE),
        };
        Self {
            limit,
            count: 0,
            text_bytes: 0,
        }
    }

    /// Takes a message onto the page; `false`: it is full.
    fn take(&mut self, row: &StoredMessage) -> bool {
        let text_bytes = self.text_bytes + row.text.len();
        if self.count == self.limit || (self.count > 0 && text_bytes > PAGE_TEXT_BYTES) {
            return false;
        }
        self.count += 1;
        self.text_bytes = text_bytes;
        true
    }
}

impl<S: Storage> Engine<S> {
    pub(super) fn pull_offline(
        &mut self,
        request: &proto::PullOfflineRequest,
    ) -> Result<proto::PullOfflineResponse, Failure> {
        let user = request.user_id;
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let mut response = proto::PullOfflineResponse {
            result: ok(),
            ..Default::default()
        };
        if request.after_seq.is_some() || request.to_seq != 0 {
            let stream = StreamId::inbox(user);
            let after_seq = request.after_seq.unwrap_or(0);
            let (rows, more) = self.fetch(stream, after_seq, request.to_seq, request.limit)?;
            for row in rows {
                let redelivery = self.hand_out((stream, user), row.seq);
                response.msg_list.push(direct(row, user, redelivery));
            }
            response.more = more;
            response.last_seq = Some(self.store.last_seq(stream));
            return Ok(response);
        }
        let wanted = if request.redelivery_only {
            Wanted::Redelivery
        } else {
            Wanted::Unconfirmed
        };
        self.merge(user, wanted, Page::new(request.limit), &mut response)?;
        Ok(response)
    }

    pub(super) fn pull_group(
        &mut self,
        request: &proto::PullGroupRequest,
    ) -> Result<proto::PullGroupResponse, Failure> {
        if !self.load_group(request.group_id)? {
            return Err(Failure::Refused(Code::NotFound, "no such group"));
        }
        let stream = StreamId::group(request.group_id);
        let user = request.user_id;
        let since = self
            .store
            .load_member(stream, user)?
            .map(|cursor| cursor.since)
            .ok_or(Failure::Refused(Code::Forbidden, "not a member"))?;
        let after_seq = request.after_seq.max(since);
        let (rows, _) = self.fetch(stream, after_seq, request.to_seq, request.limit)?;
        let mut group_msg_list = Vec::with_capacity(rows.len());
        for row in rows {
            let redelivery = self.hand_out((stream, user), row.seq);
            group_msg_list.push(of_group(row, request.group_id, redelivery));
        }
        Ok(proto::PullGroupResponse {
            result: ok(),
            group_msg_list,
            last_seq: Some(self.store.last_seq(stream)),
        })
    }

    /// The messages `after_seq < seq <= to_seq` of a loaded stream that fit a page, and whether
    /// there are more.
    fn fetch(
        &self,
        stream: StreamId,
        after_seq: u64,
        to_seq: u64,
        limit: u32,
    ) -> Result<(Vec<StoredMessage>, bool), Failure> {
        let last_seq = self.store.last_seq(stream);
        let to_seq = match to_seq {
            0 => last_seq,
            to_seq => to_seq.min(last_seq),
        };
        if after_seq >= to_seq {
            return Ok((Vec::new(), false));
        }
        let mut page = Page::new(limit);
        let rows = self
            .store
            .read()
            .messages(stream, after_seq + 1, to_seq, page.limit + 1)?;
        let found = rows.len();
        let rows: Vec<StoredMessage> = rows.into_iter().take_while(|row| page.take(row)).collect();
        let more = rows.len() < found;
        Ok((rows, more))
    }

    /// Fills a page with the oldest unconfirmed messages of all streams of `user`; each stream
    /// stays in its own order.
    fn merge(
        &mut self,
        user: UserId,
        wanted: Wanted,
        mut page: Page,
        response: &mut proto::PullOfflineResponse,
    ) -> Result<(), Failure> {
        let mut sources = Vec::new();
        for stream in self.streams_of(user)? {
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor((stream, user))
                && cursor.unconfirmed(last_seq) > 0
                && wanted.next(cursor, 1, last_seq).is_some()
            {
                sources.push(Source {
                    stream,
                    next_seq: cursor.floor + 1,
                    rows: VecDeque::new(),
                });
            }
        }
        let read_ahead = (page.limit / sources.len().max(1))
            .saturating_add(1)
            .clamp(*READ_AHEAD.start(), *READ_AHEAD.end());
        let mut oldest = BinaryHeap::new();
        for (index, source) in sources.iter_mut().enumerate() {
            self.read_on(source, user, wanted, read_ahead)?;
            oldest.extend(source.head().map(|head| Reverse((head, index))));
        }
        while let Some(Reverse((_, index))) = oldest.pop() {
            let source = &mut sources[index];
            let Some(row) = source.rows.pop_front_if(|row| page.take(row)) else {
                response.more = true;
                return Ok(());
            };
            let stream = source.stream;
            if source.rows.is_empty() {
                self.read_on(source, user, wanted, read_ahead)?;
            }
            oldest.extend(source.head().map(|head| Reverse((head, index))));
            let redelivery = self.hand_out((stream, user), row.seq);
            match stream.group_id() {
                None => response.msg_list.push(direct(row, user, redelivery)),
                Some(group) => response
                    .group_msg_list
                    .push(of_group(row, group, redelivery)),
            }
        }
        Ok(())
    }

    /// Reads the next unconfirmed messages of a stream, passing over those that `user` wrote to a
    /// group itself.
    fn read_on(
        &mut self,
        source: &mut Source,
        user: UserId,
        wanted: Wanted,
        read_ahead: usize,
    ) -> Result<(), Failure> {
        let stream = source.stream;
        let key = (stream, user);
        let last_seq = self.store.last_seq(stream);
        while source.rows.is_empty() {
            let gap = self
                .store
                .cursor(key)
                .and_then(|cursor| wanted.next(cursor, source.next_seq, last_seq));
            let Some((from, to)) = gap else {
                return Ok(());
            };
            let rows = self.store.read().messages(stream, from, to, read_ahead)?;
            source.next_seq = match rows.last() {
                Some(row) if rows.len() == read_ahead => row.seq + 1,
                _ => to + 1,
            };
            for row in rows {
                if stream.group_id().is_some() && row.sender == user {
                    // Its confirmation was lost in a crash.
                    if let Some(cursor) = self.store.cursor(key) {
                        cursor.confirm(row.seq, row.seq, last_seq);
                        self.store.mark_dirty(key);
                    }
                } else {
                    source.rows.push_back(row);
                }
            }
        }
        Ok(())
    }

    /// Marks a message as handed out and tells whether it was before.
    fn hand_out(&mut self, key: (StreamId, UserId), seq: u64) -> bool {
        let Some(cursor) = self.store.cursor(key) else {
            return false;
        };
        let redelivery = cursor.is_redelivery(seq);
        if cursor.hand_out(seq) {
            self.store.mark_urgent(key);
        }
        redelivery
    }

    pub(super) fn ack(
        &mut self,
        request: &proto::AckRequest,
    ) -> Result<proto::AckResponse, Failure> {
        let user = request.user_id;
        if request.msg_id_list.len() + request.group_msg_id_list.len() > ACKS_LIMIT {
            return Err(Failure::Refused(Code::Invalid, "too many ids at once"));
        }
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let mut acked = 0;
        for (stream, seq) in self.store.read().places_of(&named_once(request))? {
            if !self.load_reader(stream, user)? {
                continue;
            }
            let key = (stream, user);
            let last_seq = self.store.last_seq(stream);
            let newly = self
                .store
                .cursor(key)
                .map_or(0, |cursor| cursor.confirm(seq, seq, last_seq));
            if newly > 0 {
                acked += 1;
                self.store.mark_urgent(key);
            } else if self.store.is_dirty(key) {
                // Confirmed a moment ago and not written yet: the reply promises that it is.
                self.store.mark_urgent(key);
            } else {
                continue;
            }
            // The promise needs a transaction; without one, refuse.
            self.store.write()?;
        }
        Ok(proto::AckResponse {
            result: ok(),
            acked,
        })
    }

    /// Remembers a stream with the cursor of `user`; `false`: it is not one that `user` reads.
    pub(super) fn load_reader(&mut self, stream: StreamId, user: UserId) -> Result<bool, Failure> {
        match stream.group_id() {
            None => Ok(stream == StreamId::inbox(user) && self.load_inbox(user)?),
            Some(group) => {
                Ok(self.load_group(group)? && self.store.load_member(stream, user)?.is_some())
            }
        }
    }

    pub(super) fn ack_batch(
        &mut self,
        request: &proto::AckBatchRequest,
    ) -> Result<proto::AckBatchResponse, Failure> {
        if request.acks.len() > ACKS_LIMIT {
            return Err(Failure::Refused(Code::Invalid, "too many ranges at once"));
        }
        for range in &request.acks {
            let stream = match range.group_id {
                0 => StreamId::inbox(range.user_id),
                group => StreamId::group(group),
            };
            if !self.load_reader(stream, range.user_id)? {
                continue;
            }
            let key = (stream, range.user_id);
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor(key)
                && cursor.confirm(range.from_seq, range.to_seq, last_seq) > 0
            {
                self.store.mark_dirty(key);
            }
        }
        Ok(proto::AckBatchResponse { result: ok() })
    }
}

impl Source {
    fn head(&self) -> Option<(i64, MessageId)> {
        self.rows.front().map(|row| (row.ts_ms, row.msg_id))
    }
}

/// The ids of an acknowledgement, each once: gateways name each in both lists. In order, so that
/// neighbours are found on the page that is at hand.
fn named_once(request: &proto::AckRequest) -> Vec<MessageId> {
    let mut msg_ids = [&request.msg_id_list[..], &request.group_msg_id_list[..]].concat();
    msg_ids.sort_unstable();
    msg_ids.dedup();
    msg_ids
}

fn direct(row: StoredMessage, to: UserId, redelivery: bool) -> proto::C2cMsg {
    proto::C2cMsg {
        msg_id: row.msg_id,
        from: row.sender,
        to,
        ts_ms: row.ts_ms,
        text: row.text,
        seq: row.seq,
        redelivery,
    }
}

fn of_group(row: StoredMessage, group_id: i64, redelivery: bool) -> proto::GroupMsg {
    proto::GroupMsg {
        msg_id: row.msg_id,
        from: row.sender,
        group_id,
        ts_ms: row.ts_ms,
        text: row.text,
        seq: row.seq,
        redelivery,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_up_once_however_often_it_is_named() {
        let request = proto::AckRequest {
            user_id: 1,
            msg_id_list: vec![7, 3, 7, 9],
            group_msg_id_list: vec![7, 3, 7, 9],
        };
        assert_eq!(named_once(&request), [3, 7, 9]);
    }
}
