//! The model's Message Service: stored, numbered, published, handed out.

use std::collections::BTreeSet;

use super::model::{Model, Stored, Stream, result};
use crate::{
    base::id::{MessageId, UserId},
    contract::{bus::Channel, methods::Response},
    proto::{self, Code, PushMessage},
};

impl Model {
    fn store(
        &mut self,
        stream: Stream,
        id: MessageId,
        from: UserId,
        ts_ms: i64,
        text: &str,
        readers: BTreeSet<UserId>,
    ) -> u64 {
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
        stored.len() as u64
    }

    pub(super) fn send(&mut self, send: &proto::SendRequest) -> Response {
        let msg = send.msg.as_ref().expect("a message");
        let seq = self.store(
            Stream::Direct(msg.to),
            msg.msg_id,
            msg.from,
            msg.ts_ms,
            &msg.text,
            [msg.to].into(),
        );
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
        Response::Send(proto::SendResponse {
            result: result(Code::Ok),
            msg_id: msg.msg_id,
            duplicate: false,
        })
    }

    pub(super) fn send_group(&mut self, send: &proto::SendGroupRequest) -> Response {
        let msg = send.msg.as_ref().expect("a message");
        let readers: BTreeSet<UserId> = self.groups[&msg.group_id].keys().copied().collect();
        let refused = !readers.contains(&msg.from);
        if !refused {
            let seq = self.store(
                Stream::Group(msg.group_id),
                msg.msg_id,
                msg.from,
                msg.ts_ms,
                &msg.text,
                readers,
            );
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
        Response::SendGroup(proto::SendGroupResponse {
            result: result(if refused { Code::Forbidden } else { Code::Ok }),
            msg_id: msg.msg_id,
            duplicate: false,
        })
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
