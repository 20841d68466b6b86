//! How values travel: which bytes stand for a reply or a push on a connection.
//!
//! Owns the choice between the forms and nothing of any of them: a session and its core name this
//! alone, so that a further form is a variant here and a module beside the lines'. What depends on
//! a form (how text is escaped, where a message ends) stays in its module.

use super::{
    command::{Dialect, Tag},
    push::Push,
    reply::Reply,
};

/// A form in which a connection's commands, replies and pushes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Lines of text.
    #[default]
    Line,
}

impl Codec {
    /// How many forms there are: a push is encoded once for each of them that is spoken.
    pub const COUNT: usize = 1;

    /// The form's place among all of them.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Appends what `reply` is in this form to `out`. `dialect` is the one its command was in.
    pub fn write_reply(
        self,
        reply: &Reply,
        tag: Option<&Tag>,
        dialect: Dialect,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Line => reply.write(tag, dialect, out),
        }
    }

    /// Appends what `push` is in this form to `out`.
    pub fn write_push(self, push: &Push<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Line => push.write(out),
        }
    }
}
