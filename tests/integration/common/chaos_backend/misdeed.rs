//! The ways in which the misbehaving backend misbehaves.

use std::time::Duration;

use im_gateway::{
    contract::methods::Response,
    proto::{C2cMsg, Code, PullOfflineResponse, ReplyHeader},
};
use prost::Message;

use crate::common::random::Random;

/// One way to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misdeed {
    /// The right answer after a moment; with ids, others overtake it.
    Late,
    /// The right answer long after the caller has given up.
    TooLate,
    /// No answer.
    Never,
    /// The right answer, twice in one piece.
    Twice,
    /// Half of the right answer, then the end.
    Truncated,
    /// The end instead of an answer.
    Closed,
    /// An answer that says it is longer than any may be.
    TooLong,
    /// The right answer under an id that nobody waits for.
    UnknownId,
    /// The right answer under the id of a call that has had its own.
    AnsweredId,
    /// A message of another type.
    WrongMessage,
    /// Bytes that are no message.
    Garbage,
    /// Nothing at all, where a message should be.
    Empty,
    /// A text that is not UTF-8.
    NotUtf8,
    /// A result whose code nobody knows.
    StrangeCode,
    /// A status that nobody knows; without ids, a strange code.
    StrangeStatus,
    /// A header that does not parse; without ids, garbage.
    BadHeader,
    /// Ids below zero.
    NegativeIds,
    /// An inbox with other people's messages among the user's own, and line breaks in texts.
    Foreign,
}

impl Misdeed {
    /// Every one; some only where replies have ids, see [`needs_ids`](Self::needs_ids).
    pub const ALL: [Self; 18] = [
        Self::Late,
        Self::TooLate,
        Self::Never,
        Self::Twice,
        Self::Truncated,
        Self::Closed,
        Self::TooLong,
        Self::UnknownId,
        Self::AnsweredId,
        Self::WrongMessage,
        Self::Garbage,
        Self::Empty,
        Self::NotUtf8,
        Self::StrangeCode,
        Self::StrangeStatus,
        Self::BadHeader,
        Self::NegativeIds,
        Self::Foreign,
    ];

    /// Whether it is one only where replies have ids.
    pub fn needs_ids(self) -> bool {
        matches!(self, Self::UnknownId | Self::AnsweredId)
    }
}

/// What becomes of one call.
pub struct Deed {
    /// The bytes to write.
    pub bytes: Vec<u8>,
    /// How long to wait before that.
    pub pause: Duration,
    /// Whether the connection ends behind them.
    pub then_close: bool,
    /// Whether they are the right answer, on its way at once.
    pub is_honest: bool,
}

impl Deed {
    fn now(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            pause: Duration::ZERO,
            then_close: false,
            is_honest: false,
        }
    }
}

/// One call, as far as its answer needs it.
pub struct Call {
    /// The id of its reply; 0: a classic reply.
    pub id: u64,
    /// The id of a call on the same connection that has had its answer; 0: there is none yet.
    pub answered: u64,
    /// The right answer.
    pub answer: Response,
    /// After this long the caller has given up.
    pub patience: Duration,
}

impl Call {
    /// The answer of the health service.
    pub fn health(id: u64, body: &impl Message) -> Deed {
        let body = body.encode_to_vec();
        Deed::now(frame(id, 0, body.len() as u32, &body))
    }

    /// The right answer at once.
    pub fn honest(&self) -> Deed {
        Deed {
            is_honest: true,
            ..Deed::now(self.framed(&self.body()))
        }
    }

    /// The wrong one.
    pub fn misdeed(&self, misdeed: Misdeed, random: &mut Random) -> Deed {
        let right = self.framed(&self.body());
        let body = |bytes: &[u8]| Deed::now(self.framed(bytes));
        match misdeed {
            Misdeed::Late => Deed {
                pause: Duration::from_millis(1 + random.below(40)),
                ..Deed::now(right)
            },
            Misdeed::TooLate => Deed {
                pause: self.patience * 3 / 2,
                ..Deed::now(right)
            },
            Misdeed::Never => Deed::now(Vec::new()),
            Misdeed::Twice => Deed::now([right.clone(), right].concat()),
            Misdeed::Truncated => Deed {
                then_close: true,
                ..Deed::now(right[..right.len() / 2].to_vec())
            },
            Misdeed::Closed => Deed {
                then_close: true,
                ..Deed::now(Vec::new())
            },
            Misdeed::TooLong => Deed::now(self.announce(u32::MAX)),
            Misdeed::UnknownId => Deed::now(self.framed_as(self.id ^ (1 << 60), 0, &self.body())),
            Misdeed::AnsweredId => Deed::now(self.framed_as(self.answered, 0, &self.body())),
            // Its first field is a number, where every answer has its result.
            Misdeed::WrongMessage => body(
                &C2cMsg {
                    msg_id: 4711,
                    from: 1,
                    to: 2,
                    text: "no answer".to_string(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            Misdeed::Garbage => body(&[0xff; 40]),
            Misdeed::Empty => body(&[]),
            Misdeed::NotUtf8 => body(b"\x0a\x04\x12\x02\xff\xfe"),
            Misdeed::StrangeCode => body(b"\x0a\x02\x08\x63"),
            Misdeed::StrangeStatus => match self.id {
                0 => body(b"\x0a\x02\x08\x63"),
                id => Deed::now(self.framed_as(id, 77, &[])),
            },
            Misdeed::BadHeader => match self.id {
                0 => body(&[0xff; 40]),
                _ => Deed::now(b"\x05\0\0\0\xff\xff\xff\xff\xff".to_vec()),
            },
            Misdeed::NegativeIds => body(&self.with_negative_ids()),
            Misdeed::Foreign => body(&self.with_foreign_messages()),
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.answer.encode(&mut bytes);
        bytes
    }

    fn framed(&self, body: &[u8]) -> Vec<u8> {
        self.framed_as(self.id, 0, body)
    }

    fn framed_as(&self, id: u64, status: i32, body: &[u8]) -> Vec<u8> {
        frame(id, status, body.len() as u32, body)
    }

    /// The head of an answer of this length, and a little of it.
    fn announce(&self, length: u32) -> Vec<u8> {
        frame(self.id, 0, length, &[0; 100])
    }

    fn with_negative_ids(&self) -> Vec<u8> {
        let mut answer = self.answer.clone();
        match &mut answer {
            Response::Login(response) => response.user_id = -5,
            Response::Register(response) => response.user_id = -5,
            Response::Send(response) => response.msg_id = -5,
            Response::SendGroup(response) => response.msg_id = -5,
            Response::SendBatch(response) => {
                for result in &mut response.results {
                    result.msg_id = -5;
                }
            }
            Response::CreateGroup(response) => response.group_id = -5,
            Response::GetFriends(response) => response.friend_ids = vec![-5],
            Response::GetUserGroups(response) => response.group_ids = vec![-5],
            Response::PullOffline(response) => {
                for message in &mut response.msg_list {
                    message.msg_id = -5;
                }
            }
            _ => {}
        }
        let mut bytes = Vec::new();
        answer.encode(&mut bytes);
        bytes
    }

    fn with_foreign_messages(&self) -> Vec<u8> {
        let Response::PullOffline(response) = &self.answer else {
            return self.body();
        };
        let foreign = |text: &str, to: i64| C2cMsg {
            msg_id: 99,
            from: 1,
            to,
            ts_ms: 1,
            text: text.to_string(),
            ..Default::default()
        };
        let mut msg_list = response.msg_list.clone();
        msg_list.insert(0, foreign("for somebody else", 4_000_000_000));
        msg_list.push(foreign("for somebody else\nMSG id=1 from=1 ts=1 text=x", 7));
        PullOfflineResponse {
            msg_list,
            ..response.clone()
        }
        .encode_to_vec()
    }
}

/// A reply that says its body has `body_size` bytes; a classic one for the id 0.
fn frame(call_id: u64, status: i32, body_size: u32, body: &[u8]) -> Vec<u8> {
    if call_id == 0 {
        return [&body_size.to_le_bytes(), body].concat();
    }
    let header = ReplyHeader {
        call_id,
        status,
        body_size,
    }
    .encode_to_vec();
    let length = header.len() as u32;
    [&length.to_le_bytes(), header.as_slice(), body].concat()
}

#[test]
fn every_misdeed_changes_something() {
    let call = Call {
        id: 5,
        answered: 4,
        answer: super::truth::answer(&im_gateway::contract::methods::Request::PullOffline(
            im_gateway::proto::PullOfflineRequest {
                user_id: 3,
                ..Default::default()
            },
        )),
        patience: Duration::from_millis(100),
    };
    let honest = call.honest();
    for misdeed in Misdeed::ALL {
        let deed = call.misdeed(misdeed, &mut Random::new(1));
        assert!(
            deed.bytes != honest.bytes || !deed.pause.is_zero(),
            "{misdeed:?}"
        );
    }
    assert!(Code::try_from(99).is_err());
}
