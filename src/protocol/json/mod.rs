//! The JSON form: requests, replies and pushes as objects, one to a frame.
//!
//! Owns the names of members and how values are written: numbers as numbers, but ids of messages
//! and sessions, which may be too long for other languages' numbers, as texts.

pub(super) mod push;
pub mod reply;
pub(super) mod request;
mod value;

/// Appends `text` as a JSON text.
fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text is written to memory");
}

/// Appends `key`, written as `"key":`, and a number.
fn number(key: &str, number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `key` and a number as a text.
fn long_number(key: &str, number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'"');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(b'"');
}

/// Appends `key` and a text.
fn text(key: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    write_text(text, out);
}

/// Appends `key` and a list.
fn list<T>(key: &str, items: &[T], out: &mut Vec<u8>, write_item: impl Fn(&T, &mut Vec<u8>)) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_item(item, out);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests;
