//! WebSocket frames (RFC 6455, section 5): cutting a byte stream into messages, and writing frames.
//!
//! Owns the form of a frame and the rules between frames. Knows nothing of what a message says, and
//! no handshake: bytes come in from the first frame on. Extensions are not spoken, so reserved bits
//! are errors.
//!
//! Invariants: any split of a byte stream gives the same messages; a message is never longer than
//! its limit, and a frame that would make it so is refused by its head; a text message is UTF-8;
//! what is kept between two calls is the beginning of one fragmented message.

/// The longest head of a frame, in bytes: two, a length of eight, a mask of four.
pub const HEAD_BYTES_MAX: usize = 14;
/// What a control frame may carry, in bytes.
const CONTROL_BYTES_MAX: usize = 125;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Lengths that say that the length follows, in two bytes or in eight.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation = 0,
    /// A text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end of the conversation.
    Close = 8,
    /// To be answered with a pong of the same bytes.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

impl Opcode {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte & OPCODE {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// Why a connection is closed for what came on it; the codes are those of RFC 6455, section 7.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It is no frame of this protocol.
    Protocol(&'static str),
    /// A text is not UTF-8.
    NotUtf8,
    /// A message is longer than it may be.
    TooLong,
}

impl FrameError {
    /// The code of the close frame.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooLong => 1009,
        }
    }

    /// Why, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Protocol(words) => words,
            Self::NotUtf8 => "a text frame is not UTF-8",
            Self::TooLong => "a message is longer than it may be",
        }
    }
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole text.
    Text(&'a str),
    /// Whole bytes.
    Binary(&'a [u8]),
    /// The peer wants to see these bytes again.
    Ping(&'a [u8]),
    /// The peer closes, with this code.
    Close(u16),
    /// Nothing to do: a pong, or a part of a message.
    Nothing,
}

/// The beginning of a fragmented message.
#[derive(Debug, Default)]
pub struct Assembly {
    opcode: Option<Opcode>,
    payload: Vec<u8>,
    /// How much of a text is known to be UTF-8, in bytes.
    checked_bytes: usize,
}

impl Assembly {
    /// The beginning of a message, all of which was checked when it came.
    pub(super) fn begun_with(opcode: Opcode, begun: &[u8]) -> Self {
        let checked_bytes = match std::str::from_utf8(begun) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        Self {
            opcode: Some(opcode),
            payload: begun.to_vec(),
            checked_bytes,
        }
    }

    /// Takes in the payload of a frame. A text is refused with the first frame that cannot be part
    /// of one; a character may be cut between two frames.
    fn add(&mut self, mask: [u8; 4], masked: &[u8]) -> Result<(), FrameError> {
        unmask(mask, masked, &mut self.payload);
        if self.opcode == Some(Opcode::Text) {
            let unchecked = &self.payload[self.checked_bytes..];
            self.checked_bytes += match std::str::from_utf8(unchecked) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(FrameError::NotUtf8),
            };
        }
        Ok(())
    }

    /// How much of a message it holds, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.payload.len()
    }
}

/// The head of a frame.
struct Head {
    opcode: Opcode,
    is_final: bool,
    mask: [u8; 4],
    head_bytes: usize,
    payload_bytes: usize,
}

impl Head {
    /// The head at the front of `bytes`; `None`: not all of it is there. `room` is what the message
    /// may still take, in bytes.
    fn read(bytes: &[u8], room: usize) -> Result<Option<Self>, FrameError> {
        let Some([first, second]) = bytes.first_chunk::<2>() else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(FrameError::Protocol("a reserved bit is set"));
        }
        let opcode =
            Opcode::of(*first).ok_or(FrameError::Protocol("the opcode is a reserved one"))?;
        if second & MASKED == 0 {
            return Err(FrameError::Protocol("a client masks its frames"));
        }
        let is_final = first & FINAL != 0;
        let short = second & LENGTH;
        if opcode as u8 & CONTROL != 0 && (!is_final || usize::from(short) > CONTROL_BYTES_MAX) {
            return Err(FrameError::Protocol("a control frame is short and whole"));
        }
        let (payload_bytes, length_bytes) = match short {
            LENGTH_16 => match bytes[2..].first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
                None => return Ok(None),
            },
            LENGTH_64 => match bytes[2..].first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        let is_minimal = match length_bytes {
            2 => payload_bytes >= u64::from(LENGTH_16),
            8 => payload_bytes > u64::from(u16::MAX) && payload_bytes < 1 << 63,
            _ => true,
        };
        if !is_minimal {
            return Err(FrameError::Protocol(
                "the length is not written in its shortest form",
            ));
        }
        let is_control = opcode as u8 & CONTROL != 0;
        let payload_bytes = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        if !is_control && payload_bytes > room {
            return Err(FrameError::TooLong);
        }
        let mask_at = 2 + length_bytes;
        let Some(mask) = bytes[mask_at..].first_chunk() else {
            return Ok(None);
        };
        Ok(Some(Self {
            opcode,
            is_final,
            mask: *mask,
            head_bytes: mask_at + mask.len(),
            payload_bytes,
        }))
    }
}

/// Takes the first frame off `bytes`: what it is, and how many bytes it took; `None`: more bytes
/// are needed. A message may have `max_bytes`. `assembly` is the connection's, `scratch` is lent
/// for the bytes of this frame.
///
/// # Errors
/// What no peer may send: the connection is to be closed with the error's code.
pub fn read_frame<'a>(
    bytes: &[u8],
    max_bytes: usize,
    assembly: &mut Option<Box<Assembly>>,
    scratch: &'a mut Vec<u8>,
) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
    let begun = assembly
        .as_ref()
        .map_or(0, |assembly| assembly.held_bytes());
    let Some(head) = Head::read(bytes, max_bytes.saturating_sub(begun))? else {
        return Ok(None);
    };
    let consumed = head.head_bytes + head.payload_bytes;
    let Some(masked) = bytes.get(head.head_bytes..consumed) else {
        return Ok(None);
    };
    scratch.clear();
    if let Some(whole) = take_data(&head, masked, assembly, scratch)? {
        return Ok(Some((whole_message(whole, scratch)?, consumed)));
    }
    unmask(head.mask, masked, scratch);
    let frame = match head.opcode {
        Opcode::Ping => Frame::Ping(scratch),
        Opcode::Close => Frame::Close(close_code(scratch)?),
        _ => Frame::Nothing,
    };
    Ok(Some((frame, consumed)))
}

/// Takes in a frame of data: the opcode of the message that is whole with it, which is in `scratch`
/// then; `None`: it is no data, or not the last of its message.
fn take_data(
    head: &Head,
    masked: &[u8],
    assembly: &mut Option<Box<Assembly>>,
    scratch: &mut Vec<u8>,
) -> Result<Option<Opcode>, FrameError> {
    let is_begun = assembly.is_some();
    match (head.opcode, is_begun) {
        (Opcode::Text | Opcode::Binary, false) if head.is_final => {
            unmask(head.mask, masked, scratch);
            Ok(Some(head.opcode))
        }
        (Opcode::Text | Opcode::Binary, false) => {
            let mut begun = Box::new(Assembly {
                opcode: Some(head.opcode),
                ..Assembly::default()
            });
            begun.add(head.mask, masked)?;
            *assembly = Some(begun);
            Ok(None)
        }
        (Opcode::Text | Opcode::Binary, true) => {
            Err(FrameError::Protocol("a message begins within another"))
        }
        (Opcode::Continuation, false) => {
            Err(FrameError::Protocol("there is no message to continue"))
        }
        (Opcode::Continuation, true) => {
            let begun = assembly.as_mut().expect("it is begun");
            begun.add(head.mask, masked)?;
            if !head.is_final {
                return Ok(None);
            }
            let whole = assembly.take().expect("it is begun");
            *scratch = whole.payload;
            Ok(whole.opcode)
        }
        (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => Ok(None),
    }
}

fn whole_message(opcode: Opcode, payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    match opcode {
        Opcode::Text => std::str::from_utf8(payload)
            .map(Frame::Text)
            .map_err(|_| FrameError::NotUtf8),
        _ => Ok(Frame::Binary(payload)),
    }
}

/// The code in the payload of a close frame; 1005, which never travels, where there is none.
fn close_code(payload: &[u8]) -> Result<u16, FrameError> {
    let Some((code, words)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(1005),
            _ => Err(FrameError::Protocol("a close frame of one byte")),
        };
    };
    let code = u16::from_be_bytes(*code);
    let may_travel = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_travel {
        return Err(FrameError::Protocol("the close code is a reserved one"));
    }
    match std::str::from_utf8(words) {
        Ok(_) => Ok(code),
        Err(_) => Err(FrameError::NotUtf8),
    }
}

/// Appends `masked` without its mask, which begins with its first byte.
fn unmask(mask: [u8; 4], masked: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(masked);
    let mut words = out[start..].chunks_exact_mut(mask.len());
    // Four at a time, which the compiler makes vector code of.
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Makes a frame of what `out` holds from `start` on: puts its head in front of it.
pub fn frame(opcode: Opcode, start: usize, out: &mut Vec<u8>) {
    let length = out.len() - start;
    let first = FINAL | opcode as u8;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < LENGTH_16 => {
            out.splice(start..start, [first, short]);
        }
        (_, Ok(length)) => {
            let [high, low] = length.to_be_bytes();
            out.splice(start..start, [first, LENGTH_16, high, low]);
        }
        _ => {
            let mut head = [first, LENGTH_64, 0, 0, 0, 0, 0, 0, 0, 0];
            head[2..].copy_from_slice(&(length as u64).to_be_bytes());
            out.splice(start..start, head);
        }
    }
}

/// Appends a close frame; its words are cut to what fits.
pub fn write_close(code: u16, words: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&code.to_be_bytes());
    let fits = words.floor_char_boundary(CONTROL_BYTES_MAX - 2);
    out.extend_from_slice(&words.as_bytes()[..fits]);
    frame(Opcode::Close, start, out);
}

/// Appends a pong, or a ping.
pub fn write_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let start = out.len();
    out.extend_from_slice(payload);
    frame(opcode, start, out);
}

/// How many bytes the frame at the front of `bytes` takes, which this module wrote; `None`: there
/// is no whole head.
pub fn written_length(bytes: &[u8]) -> Option<usize> {
    let [_, short] = bytes.first_chunk::<2>()?;
    Some(match *short {
        LENGTH_16 => 4 + usize::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)),
        LENGTH_64 => 10 + usize::try_from(u64::from_be_bytes(*bytes[2..].first_chunk()?)).ok()?,
        short => 2 + usize::from(short),
    })
}

/// A frame as a client writes it: masked.
#[cfg(test)]
pub(crate) fn client_frame(
    opcode: Opcode,
    is_final: bool,
    mask: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(payload);
    frame(opcode, 0, &mut bytes);
    let head_bytes = bytes.len() - payload.len();
    if !is_final {
        bytes[0] &= !FINAL;
    }
    bytes[1] |= MASKED;
    let masked = payload.iter().zip(mask.iter().cycle());
    let masked: Vec<u8> = masked.map(|(byte, mask)| byte ^ mask).collect();
    bytes.truncate(head_bytes);
    bytes.extend_from_slice(&mask);
    bytes.extend_from_slice(&masked);
    bytes
}

#[cfg(test)]
mod tests;
