//! Labels with a closed set of values, and arrays indexed by them.
//!
//! Owns the rule that no label has an open set of values: no user, no address. So every series
//! exists from the start, an array holds them all, and counting looks nothing up and allocates
//! nothing.

use crate::{
    base::close::{CloseReason, Misfit},
    contract::{backend::CallError, methods::Service},
    limits::Refusal,
    protocol::{codec::Carrier, command::Verb, error_code::ErrorCode, http::response::Status},
};

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// All values, each at its own index.
    const ALL: &'static [Self];
    /// Where it stands in [`ALL`](Self::ALL).
    fn index(self) -> usize;
    /// The value of the label on the wire.
    fn word(self) -> &'static str;
}

/// One `T` for every value of a label.
#[derive(Debug)]
pub struct PerLabel<L, T, const N: usize> {
    cells: [T; N],
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Label, T, const N: usize> PerLabel<L, T, N> {
    const COVERS_ALL: () = assert!(N == L::ALL.len(), "one cell for every value of the label");

    /// A cell for every value, each made by `cell`.
    pub fn new(cell: impl Fn() -> T) -> Self {
        let () = Self::COVERS_ALL;
        Self {
            cells: std::array::from_fn(|_| cell()),
            label: std::marker::PhantomData,
        }
    }

    /// The cell of `label`.
    #[inline]
    pub fn at(&self, label: L) -> &T {
        &self.cells[label.index()]
    }

    /// Every value's word with its cell.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        L::ALL.iter().map(|label| (label.word(), self.at(*label)))
    }
}

impl<L: Label, T: Default, const N: usize> Default for PerLabel<L, T, N> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

/// Why a push that arrived at a core, or a message that was handed out to it, was not written to
/// anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushDrop {
    /// Nobody it is meant for is connected to this core.
    NoReceiver,
    /// It did not parse.
    Malformed,
    /// Its number was pushed before.
    Duplicate,
    /// It carries no proof that it comes from one who knows the push secret.
    Unsigned,
}

/// Why a password was not hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordLoss {
    /// As many were waiting as can be hashed in time.
    NoRoom,
    /// Its caller had given up before its turn came.
    TooLate,
}

/// Labels whose words stand here, as they are names of nothing else.
macro_rules! labels {
    ($($label:ident { $($value:ident => $word:literal,)* })*) => {$(
        impl Label for $label {
            const ALL: &'static [Self] = &[$(Self::$value),*];
            fn index(self) -> usize {
                self as usize
            }
            fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                }
            }
        }
    )*};
}
pub(super) use labels;

labels! {
    Carrier {
        Line => "line",
        Http => "http",
        WebSocket => "websocket",
    }
    Refusal {
        MaxConnections => "max_connections",
        PerIp => "per_ip",
    }
    PushDrop {
        NoReceiver => "no_receiver",
        Malformed => "malformed",
        Duplicate => "duplicate",
        Unsigned => "unsigned",
    }
    PasswordLoss {
        NoRoom => "no_room",
        TooLate => "too_late",
    }
    CallError {
        Unavailable => "unavailable",
        Timeout => "timeout",
        Lost => "lost",
        Overloaded => "overloaded",
        Unsupported => "unsupported",
        Internal => "internal",
    }
}

impl Label for CloseReason {
    const ALL: &'static [Self] = &CloseReason::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        CloseReason::word(self)
    }
}

impl Label for Misfit {
    const ALL: &'static [Self] = &Misfit::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        Misfit::word(self)
    }
}

impl Label for Service {
    const ALL: &'static [Self] = &Service::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Label for Verb {
    const ALL: &'static [Self] = &Verb::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Label for ErrorCode {
    const ALL: &'static [Self] = &ErrorCode::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        ErrorCode::word(self)
    }
}

impl Label for Status {
    const ALL: &'static [Self] = &Status::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn word(self) -> &'static str {
        self.number()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::HashSet;

    pub(in crate::metrics) fn indexes_and_words_are_unique<L: Label>() {
        let mut words = HashSet::new();
        for (index, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), index, "{}", label.word());
            assert!(words.insert(label.word()), "{} twice", label.word());
        }
    }

    #[test]
    fn each_label_value_has_its_own_cell_and_word() {
        indexes_and_words_are_unique::<Carrier>();
        indexes_and_words_are_unique::<Status>();
        indexes_and_words_are_unique::<Refusal>();
        indexes_and_words_are_unique::<PushDrop>();
        indexes_and_words_are_unique::<PasswordLoss>();
        indexes_and_words_are_unique::<CallError>();
        indexes_and_words_are_unique::<CloseReason>();
        indexes_and_words_are_unique::<Misfit>();
        indexes_and_words_are_unique::<Service>();
        indexes_and_words_are_unique::<Verb>();
        indexes_and_words_are_unique::<ErrorCode>();
    }
}
