//! The envelope of a message: the size of the header, the size of the type's name, that name, the
//! header, the body, and the CRC-32 of all of it.
//!
//! Owns the sizes and the checksum. Invariant: what is read lies within the frame, whatever its
//! sizes say.

use prost::{Message, Name};

use super::messages::base::ImHeader;

const CHECKSUM_BYTES: usize = 4;

/// A frame, taken apart.
pub(super) struct Envelope<'a> {
    /// Of which type the body is.
    pub type_name: &'a str,
    pub header: ImHeader,
    pub body: &'a [u8],
}

impl Envelope<'_> {
    /// Whether the body says that it is an `M`.
    pub fn is_of<M: Name>(&self) -> bool {
        let name = self.type_name.strip_prefix(M::PACKAGE);
        name.and_then(|name| name.strip_prefix('.')) == Some(M::NAME)
    }
}

/// Takes a frame apart; `None`: it is no envelope.
pub(super) fn read(frame: &[u8]) -> Option<Envelope<'_>> {
    let (checked, checksum) = frame.split_last_chunk::<CHECKSUM_BYTES>()?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut rest = checked;
    let header_bytes = size(&mut rest)?;
    let name_bytes = size(&mut rest)?;
    let (type_name, rest) = rest.split_at_checked(name_bytes)?;
    let (header, body) = rest.split_at_checked(header_bytes)?;
    Some(Envelope {
        type_name: std::str::from_utf8(type_name).ok()?,
        header: ImHeader::decode(header).ok()?,
        body,
    })
}

/// Takes a size off the front: nothing in an envelope is empty but its body.
fn size(rest: &mut &[u8]) -> Option<usize> {
    prost::decode_length_delimiter(rest)
        .ok()
        .filter(|size| *size > 0)
}

/// Appends the envelope of `body`.
pub(super) fn write<M: Name>(header: &ImHeader, body: &M, out: &mut Vec<u8>) {
    write_encoded::<M>(header, out, |out| {
        body.encode(out).expect("memory takes all of it");
    });
}

/// Appends the envelope of an `M` whose bytes `write_body` appends.
pub(super) fn write_encoded<M: Name>(
    header: &ImHeader,
    out: &mut Vec<u8>,
    write_body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    let name_bytes = M::PACKAGE.len() + 1 + M::NAME.len();
    for size in [header.encoded_len(), name_bytes] {
        debug_assert!(size > 0, "no reader takes such an envelope");
        prost::encode_length_delimiter(size, out).expect("memory takes all of it");
    }
    out.extend_from_slice(M::PACKAGE.as_bytes());
    out.push(b'.');
    out.extend_from_slice(M::NAME.as_bytes());
    header.encode(out).expect("memory takes all of it");
    write_body(out);
    let checksum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}
