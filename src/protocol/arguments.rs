//! What stands after a command word in a line: cutting it up by dialect. Nothing here allocates.

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
