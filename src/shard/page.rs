//! What was pulled and is answered in one message: gathered until a frame is full, where a form
//! has parts.
//!
//! Owns the size of a part. A message in it is confirmed by the arrival of the whole frame.

use super::Shard;
use crate::{
    base::id::ConnectionKey,
    protocol::{push::Push, request::ReplyTo},
    session::outbox::Delivery,
};

/// A part is full from so many bytes on.
const PART_BYTES: usize = 48 * 1024;

/// The messages of one part.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// As they are written.
    pub(super) messages: Vec<u8>,
    pub(super) count: usize,
    /// What the arrival of the part confirms.
    confirms: Vec<Delivery>,
}

impl Shard {
    /// Takes a message into the page that answers `to`; sends the part once it is full.
    pub(super) fn page_in(
        &mut self,
        key: ConnectionKey,
        to: &ReplyTo,
        push: &Push<'_>,
        confirms: Option<Delivery>,
    ) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        let reader = connection.session.login().map_or(0, |login| login.user);
        let page = connection.page.get_or_insert_default();
        to.write_pulled_message(push, reader, &mut page.messages);
        page.count += 1;
        page.confirms.extend(confirms);
        // Whoever speaks protobuf awaits one answer to one request.
        let has_parts = matches!(to, ReplyTo::Json(_));
        if has_parts && page.messages.len() >= PART_BYTES {
            self.send_page(key, to, None);
        }
    }

    /// Sends what was gathered, with the reply's `more` if it is the last part.
    pub(super) fn send_page(&mut self, key: ConnectionKey, to: &ReplyTo, more: Option<bool>) {
        let Some(connection) = self
            .connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
        else {
            return;
        };
        let page = connection.page.take().unwrap_or_default();
        let before = connection.outbox.end();
        let out = connection.outbox.bytes(&mut self.pool);
        let codec = connection.codec;
        codec.write_pulled((&page.messages, page.count), more, to, out);
        let length = (connection.outbox.end() - before) as usize;
        connection.outbox.asked_for(length, &mut self.pool);
        for delivery in page.confirms {
            connection.outbox.mark(Some(delivery), &mut self.pool);
        }
        self.mark_dirty(key.slot);
    }
}
