//! The rules that single arguments obey, whichever form they came in.
//!
//! Pure checks of text; only words for people allocate.

use super::{
    command::{BadArgument, Judge},
    escape::is_plain,
};
use crate::base::{
    names::{hides_nothing, is_user_name},
    secret::Secret,
};

/// What a number in an argument stands for.
#[derive(Clone, Copy)]
pub(super) enum Numbered {
    User,
    Group,
    Message,
}

impl Numbered {
    /// The number that `text` is, or words that help whoever wrote a name instead.
    pub(super) fn parse(self, text: &str) -> Result<i64, BadArgument> {
        positive(text).ok_or_else(|| {
            let is_name = !text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
            match self {
                Self::User if is_name && is_user_name(text) => BadArgument(
                    format!("a user is meant by number, which search:{text} finds").into(),
                ),
                Self::Group if is_name => {
                    BadArgument::new("a group is meant by number; groups lists yours")
                }
                Self::User | Self::Group | Self::Message => NOT_A_NUMBER,
            }
        })
    }
}

pub(super) const NOT_A_NUMBER: BadArgument =
    BadArgument::new("an id is a decimal number from 1 to 9223372036854775807");

/// The length of a page, in items.
pub(super) fn limit(number: Option<i64>, most: u32) -> Result<u32, BadArgument> {
    number
        .and_then(|limit| u32::try_from(limit).ok())
        .filter(|limit| (1..=most).contains(limit))
        .ok_or(BadArgument::new("a limit is 1 to 1000"))
}

/// A text holds more than white space.
pub(super) fn says_something(text: &str) -> Result<(), BadArgument> {
    if text.trim().is_empty() {
        return Err(BadArgument::new("the text is empty"));
    }
    Ok(())
}

/// The text of a message that did not come in a line, where escapes stand for line breaks and other
/// control characters cannot be.
pub(super) fn message_text(text: &str) -> Result<&str, BadArgument> {
    says_something(text)?;
    let is_forbidden = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if !is_plain(text) && text.contains(is_forbidden) {
        return Err(BadArgument::new("the text holds a control character"));
    }
    Ok(text)
}

/// A text that is sent back as it is, in one line.
pub(super) fn plain(text: &str) -> Result<&str, BadArgument> {
    if is_plain(text) {
        Ok(text)
    } else {
        Err(BadArgument::new("the text holds a control character"))
    }
}

pub(super) fn user_name(text: &str) -> Result<&str, BadArgument> {
    if is_user_name(text) {
        Ok(text)
    } else {
        Err(BadArgument::new(
            "a user name is 1 to 64 bytes without spaces, control characters, : or ,",
        ))
    }
}

/// A password that an account is given.
pub(super) fn new_password(text: &str, judge: Judge) -> Result<Secret<&str>, BadArgument> {
    if judge == Judge::UserService || is_plain(text) && (6..=128).contains(&text.len()) {
        Ok(Secret::new(text))
    } else {
        Err(BadArgument::new("a password is 6 to 128 bytes long"))
    }
}

/// A password that may be an account's: one too short to be anyone's is a wrong one, and looks like
/// one.
pub(super) fn password(text: &str, judge: Judge) -> Result<Secret<&str>, BadArgument> {
    if judge == Judge::UserService || text.len() <= 128 {
        Ok(Secret::new(text))
    } else {
        Err(BadArgument::new("a password is at most 128 bytes long"))
    }
}

pub(super) fn group_name(text: &str) -> Result<&str, BadArgument> {
    if !hides_nothing(text) {
        Err(BadArgument::new(
            "a group name holds no invisible or direction-changing characters",
        ))
    } else if is_group_name(text) {
        Ok(text)
    } else {
        Err(BadArgument::new(
            "a group name is 1 to 64 bytes without control characters or :",
        ))
    }
}

pub(super) fn device_name(text: &str) -> Result<&str, BadArgument> {
    if is_device_name(text) {
        Ok(text)
    } else {
        Err(BadArgument::new(
            "a device name is 1 to 16 letters, digits, _ or -",
        ))
    }
}

/// A number of a user, group or message: positive, in decimal digits.
pub(super) fn positive(text: &str) -> Option<i64> {
    // A sign, which the standard parser would take, is not part of the grammar.
    if !text.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    text.parse().ok().filter(|number| *number > 0)
}

/// Whether a User Service elsewhere may call a user this: 1 to 64 bytes without white space or
/// control characters.
pub(super) fn is_foreign_name(text: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control();
    (1..=64).contains(&text.len()) && !text.contains(forbidden)
}

/// Whether a group may be called this: 1 to 64 bytes without control characters or `:`, not only
/// white space.
fn is_group_name(text: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c == ':';
    (1..=64).contains(&text.len()) && !text.contains(forbidden) && !text.trim().is_empty()
}

/// Whether a device may be called this: 1 to 16 of `[A-Za-z0-9_-]`.
fn is_device_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=16).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::names::is_user_name;

    #[test]
    fn numbers_are_positive_and_decimal() {
        assert_eq!(positive("42"), Some(42));
        assert_eq!(positive("0042"), Some(42));
        assert_eq!(positive("9223372036854775807"), Some(i64::MAX));
        for bad in [
            "",
            "0",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1x",
            "0x10",
            "9223372036854775808",
            "４２",
        ] {
            assert_eq!(positive(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_keep_out_what_would_break_a_line_apart() {
        let longest = "x".repeat(64);
        for good in ["a", "alice", "älice@example.org", "用户", &longest] {
            assert!(is_user_name(good), "{good:?}");
        }
        let too_long = "x".repeat(65);
        for bad in [
            "",
            "a b",
            "a:b",
            "a,b",
            "a\tb",
            "a\u{3000}b",
            "a\u{85}b",
            &too_long,
        ] {
            assert!(!is_user_name(bad), "{bad:?}");
        }
        for good in ["my team", "a,b", &longest] {
            assert!(is_group_name(good), "{good:?}");
        }
        for bad in ["", " ", "a:b", "a\tb", &too_long] {
            assert!(!is_group_name(bad), "{bad:?}");
        }
        for good in ["cli", "my-phone_2", "0123456789abcdef"] {
            assert!(is_device_name(good), "{good:?}");
        }
        for bad in ["", "my phone", "téléphone", "0123456789abcdefg", "a:b"] {
            assert!(!is_device_name(bad), "{bad:?}");
        }
    }
}
