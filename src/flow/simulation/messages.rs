//! The model's Message Service: stored, numbered, published, handed out.

use std::collections::BTreeSet;

use super::model::{Model, Random, Stored, Stream, result};
use crate::{
    base::id::{MessageId, UserId},
    contract::{bus::Channel, methods::Response},
    proto::{self, Code, PushMessage, send_batch_item::Message as BatchMessage},
};

impl Model {
    /// Stores a message; `None`: it is stored already.
    fn store(
        &mut self,
        stream: Stream,
        message: (MessageId, UserId, i64, &str),
        readers: BTreeSet<UserId>,
    ) -> Option<u64> {
        let (id, from, ts_ms, text) = message;
        if self.places.contains_key(&id) {
            return None;
        }
        let routes = &self.routes;
        let bound = |user: &UserId| routes.get(user).is_some_and(|routes| !routes.is_empty());
        let message = Stored {
            id,
            from,
            ts_ms,
            text: text.to_owned(),
            handed_out: readers.iter().copied().filter(bound).collect(),
            readers,
            confirmed: BTreeSet::new(),
        };
        let stored = self.streams.entry(stream).or_default();
        stored.push(message);
        let seq = stored.len() as u64;
        self.places.insert(id, (stream, seq));
        self.log.push(text.to_owned());
        Some(seq)
    }

    pub(super) fn send(&mut self, send: &proto::SendRequest) -> proto::SendResponse {
        let msg = send.msg.as_ref().expect("a message");
        let seq = self.store(
            Stream::Direct(msg.to),
            (msg.msg_id, msg.from, msg.ts_ms, &msg.text),
            [msg.to].into(),
        );
        let response = proto::SendResponse {
            result: result(Code::Ok),
            msg_id: msg.msg_id,
            duplicate: seq.is_none(),
        };
        let Some(seq) = seq else { return response };
        let push = PushMessage {
            msg_id: msg.msg_id,
            from: msg.from,
            to: msg.to,
            ts_ms: msg.ts_ms,
            text: msg.text.clone(),
            seq,
            ..Default::default()
        };
        self.publish_to(msg.to, &push);
        if msg.to != msg.from {
            let copy = PushMessage {
                seq: 0,
                to_many: vec![msg.from],
                session_id: send.session_id,
                ..push
            };
            self.publish_to(msg.from, &copy);
        }
        response
    }

    pub(super) fn send_group(
        &mut self,
        send: &proto::SendGroupRequest,
    ) -> proto::SendGroupResponse {
        let msg = send.msg.as_ref().expect("a message");
        let readers: BTreeSet<UserId> = self.groups[&msg.group_id].keys().copied().collect();
        if !readers.contains(&msg.from) {
            return proto::SendGroupResponse {
                result: result(Code::Forbidden),
                ..Default::default()
            };
        }
        let seq = self.store(
            Stream::Group(msg.group_id),
            (msg.msg_id, msg.from, msg.ts_ms, &msg.text),
            readers,
        );
        if let Some(seq) = seq {
            let push = PushMessage {
                msg_id: msg.msg_id,
                from: msg.from,
                group_id: msg.group_id,
                ts_ms: msg.ts_ms,
                text: msg.text.clone(),
                session_id: send.session_id,
                seq,
                ..Default::default()
            };
            self.publish(&Channel::Group(msg.group_id), &push);
        }
        proto::SendGroupResponse {
            result: result(Code::Ok),
            msg_id: msg.msg_id,
            duplicate: seq.is_none(),
        }
    }

    /// Whether the id of `item` is another message's, and whether the message is refused.
    fn luck_of(&self, item: &proto::SendBatchItem) -> (bool, bool) {
        let id = match item.message.as_ref().expect("a message") {
            BatchMessage::Direct(send) => send.msg.as_ref().map(|msg| msg.msg_id),
            BatchMessage::Group(send) => send.msg.as_ref().map(|msg| msg.msg_id),
        };
        let mut random = Random::new(id.expect("a message").unsigned_abs());
        random.below(1);
        (
            random.chance(self.failures / 2),
            random.chance(self.failures),
        )
    }

    /// Some items are refused, and sometimes the id of one is another message's.
    pub(super) fn send_batch(
        &mut self,
        batch: &proto::SendBatchRequest,
    ) -> proto::SendBatchResponse {
        let mut conflict = false;
        let results = batch.items.iter().map(|item| {
            // A repeat of the call is answered as the first one.
            let (taken, refused) = self.luck_of(item);
            conflict |= taken;
            let (answer, msg_id, duplicate) = if conflict {
                (result(Code::Conflict), 0, false)
            } else if refused {
                (result(Code::Unavailable), 0, false)
            } else {
                match item.message.as_ref().expect("a message") {
                    BatchMessage::Direct(send) => {
                        let stored = self.send(send);
                        (stored.result, stored.msg_id, stored.duplicate)
                    }
                    BatchMessage::Group(send) => {
                        let stored = self.send_group(send);
                        (stored.result, stored.msg_id, stored.duplicate)
                    }
                }
            };
            proto::SendBatchResult {
                result: answer,
                msg_id,
                duplicate,
            }
        });
        proto::SendBatchResponse {
            results: results.collect(),
            result: result(Code::Ok),
        }
    }

    pub(super) fn pull(&mut self, pull: &proto::PullOfflineRequest) -> Response {
        let user = pull.user_id;
        let mut response = proto::PullOfflineResponse {
            result: result(Code::Ok),
            ..Default::default()
        };
        let by_number = pull.after_seq.is_some() || pull.to_seq != 0;
        let mut found = Vec::new();
        for (stream, stored) in &self.streams {
            let mine = match stream {
                Stream::Direct(of) => *of == user,
                Stream::Group(group) => !by_number && self.groups[group].contains_key(&user),
            };
            for (index, message) in stored.iter().enumerate().filter(|_| mine) {
                let seq = index as u64 + 1;
                let own = matches!(stream, Stream::Group(_)) && message.from == user;
                let wanted = if by_number {
                    seq > pull.after_seq.unwrap_or(0) && (pull.to_seq == 0 || seq <= pull.to_seq)
                } else {
                    message.readers.contains(&user)
                        && !own
                        && !message.confirmed.contains(&user)
                        && (!pull.redelivery_only || message.handed_out.contains(&user))
                };
                if wanted {
                    found.push((message.id, *stream, seq));
                }
            }
        }
        if !by_number {
            found.sort_unstable();
        }
        response.more = found.len() > pull.limit as usize;
        found.truncate(pull.limit as usize);
        for (_, stream, seq) in found {
            let message =
                &mut self.streams.get_mut(&stream).expect("a known stream")[seq as usize - 1];
            let redelivery = !message.handed_out.insert(user);
            let (msg_id, from, ts_ms, text) = (
                message.id,
                message.from,
                message.ts_ms,
                message.text.clone(),
            );
            match stream {
                Stream::Direct(to) => response.msg_list.push(proto::C2cMsg {
                    msg_id,
                    from,
                    to,
                    ts_ms,
                    text,
                    seq,
                    redelivery,
                }),
                Stream::Group(group_id) => {
                    response.group_msg_list.push(proto::GroupMsg {
                        msg_id,
                        from,
                        group_id,
                        ts_ms,
                        text,
                        seq,
                        redelivery,
                    });
                }
            }
        }
        response.last_seq = by_number.then(|| self.last_seq(Stream::Direct(user)));
        Response::PullOffline(response)
    }

    pub(super) fn pull_group(&mut self, pull: &proto::PullGroupRequest) -> Response {
        let mut response = proto::PullGroupResponse {
            result: result(Code::Ok),
            group_msg_list: Vec::new(),
            last_seq: Some(self.last_seq(Stream::Group(pull.group_id))),
        };
        match self.groups[&pull.group_id].get(&pull.user_id) {
            None => response.result = result(Code::Forbidden),
            Some(since) => {
                let from = pull.after_seq.max(*since) + 1;
                let last = self.last_seq(Stream::Group(pull.group_id));
                let to = if pull.to_seq == 0 {
                    last
                } else {
                    last.min(pull.to_seq)
                };
                for seq in (from..=to).take(pull.limit as usize) {
                    let message = self.stored(Stream::Group(pull.group_id), seq);
                    response.group_msg_list.push(proto::GroupMsg {
                        msg_id: message.id,
                        from: message.from,
                        group_id: pull.group_id,
                        ts_ms: message.ts_ms,
                        text: message.text.clone(),
                        seq,
                        redelivery: true,
                    });
                }
            }
        }
        Response::PullGroup(response)
    }
}
