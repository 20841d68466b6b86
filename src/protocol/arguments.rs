//! What stands after a command word: cutting it up by dialect, and the rules single arguments obey.
//!
//! Pure checks of text; nothing here allocates.

use super::verb::Dialect;

/// What is forgiven before a command word and behind every argument that is not a text.
pub(super) const BLANKS: [char; 2] = [' ', '\t'];

/// The arguments of a line, taken from the front one after another.
pub(super) struct Arguments<'a> {
    rest: &'a str,
    dialect: Dialect,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(rest: &'a str, dialect: Dialect) -> Self {
        Self { rest, dialect }
    }

    /// The next argument, which others follow; `None`: no other follows. Spaces before it mean
    /// nothing in the space dialect.
    pub(super) fn middle(&mut self) -> Option<&'a str> {
        let rest = match self.dialect {
            Dialect::Colon => self.rest,
            Dialect::Space => self.rest.trim_start_matches(' '),
        };
        let (argument, rest) = rest.split_once(self.dialect.separator())?;
        self.rest = rest;
        Some(argument.trim_end_matches(BLANKS))
    }

    /// The rest of the line, just as it is: separators and all.
    pub(super) fn text(self) -> &'a str {
        self.rest
    }

    /// The rest of the line as one word or name: blanks behind it mean nothing, and in the space
    /// dialect those before it.
    pub(super) fn last(self) -> &'a str {
        match self.dialect {
            Dialect::Colon => self.rest.trim_end_matches(BLANKS),
            Dialect::Space => self.rest.trim_matches(BLANKS),
        }
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
pub(super) fn is_group_name(text: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c == ':';
    (1..=64).contains(&text.len()) && !text.contains(forbidden) && !text.trim().is_empty()
}

/// Whether a device may be called this: 1 to 16 of `[A-Za-z0-9_-]`.
pub(super) fn is_device_name(text: &str) -> bool {
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
