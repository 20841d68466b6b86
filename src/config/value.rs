//! How single values are written: durations with a unit, sizes with a unit, and the plain types of
//! an environment variable.
//!
//! Owns the grammar of a value. Never knows which key it belongs to, nor whether its size makes
//! sense: that is `validate`. Invariant: what `Display` writes, the parser reads back as the same
//! value.

use std::fmt;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

/// Reads a value of a key's type from the file.
pub(super) trait FromValue: Sized {
    /// The value, or what is wrong with it.
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue>;
}

/// A value of the file that its key cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    /// Where it begins in the file, in bytes.
    pub offset: usize,
    /// What is wrong with it, in words that continue "KEY: ".
    pub problem: String,
}

impl BadValue {
    fn new(value: &Spanned<DeValue<'_>>, problem: impl Into<String>) -> Self {
        Self {
            offset: value.span().start,
            problem: problem.into(),
        }
    }

    /// Of a value that is not what was `wanted`.
    pub(super) fn wanted(value: &Spanned<DeValue<'_>>, wanted: &str) -> Self {
        Self::new(
            value,
            format!("{} is not {wanted}", written(value.get_ref())),
        )
    }
}

/// A value as it is named in a message.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

impl FromValue for String {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            _ => Err(BadValue::wanted(value, "a text in quotes")),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(BadValue::wanted(value, "true or false, without quotes")),
        }
    }
}

/// An empty text leaves it open.
impl FromValue for Option<bool> {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => Ok(None),
            _ => bool::from_value(value).map(Some),
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(String::from_value).collect(),
            _ => Err(BadValue::wanted(
                value,
                "a list of texts such as [\"one\", \"two\"]",
            )),
        }
    }
}

/// A table whose keys are taken one by one, so that what is left over is a mistake.
pub(super) struct Table<'a> {
    entries: Vec<(&'a str, &'a Spanned<DeValue<'a>>)>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The table that `value` is; `wanted` says how one is written.
    pub(super) fn of(value: &'a Spanned<DeValue<'a>>, wanted: &str) -> Result<Self, BadValue> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(BadValue::wanted(value, wanted));
        };
        let entries = table.iter();
        Ok(Self {
            entries: entries
                .map(|(key, value)| (key.get_ref().as_ref(), value))
                .collect(),
            known: Vec::new(),
        })
    }

    /// The value of `key`, or that of its type which says nothing.
    pub(super) fn take<T: FromValue + Default>(
        &mut self,
        key: &'static str,
    ) -> Result<T, BadValue> {
        self.known.push(key);
        let place = self.entries.iter().position(|(name, _)| *name == key);
        match place.map(|place| self.entries.swap_remove(place)) {
            Some((_, value)) => T::from_value(value).map_err(|bad| BadValue {
                problem: format!("{key}: {}", bad.problem),
                ..bad
            }),
            None => Ok(T::default()),
        }
    }

    /// All keys that there are were taken.
    pub(super) fn finish(self) -> Result<(), BadValue> {
        let Some((key, value)) = self.entries.first() else {
            return Ok(());
        };
        let known = self.known.join(", ");
        Err(BadValue::new(
            value,
            format!("there is no key {key:?}, but {known}"),
        ))
    }
}

/// The types that are whole numbers of 0 or more.
macro_rules! whole_numbers {
    ($($type:ty),*) => { $(
        impl FromValue for $type {
            fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
                let number = whole_number(value, "a whole number, without quotes")?;
                Self::try_from(number).map_err(|_| {
                    BadValue::new(value, format!("{number} is not between 0 and {}", Self::MAX))
                })
            }
        }
    )* };
}

whole_numbers!(u16, u32, u64);

impl FromValue for i32 {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => Self::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number.ok_or_else(|| BadValue::wanted(value, "a whole number, without quotes"))
    }
}

fn whole_number(value: &Spanned<DeValue<'_>>, wanted: &str) -> Result<u64, BadValue> {
    let number = match value.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    };
    number.ok_or_else(|| BadValue::wanted(value, wanted))
}

/// A value that the file writes either as an integer or as a number with its unit.
fn integer_or_text<T>(
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
    integer: fn(u64) -> Result<T, String>,
    text: fn(&str) -> Result<T, String>,
) -> Result<T, BadValue> {
    match value.get_ref() {
        DeValue::String(written) => text(written),
        _ => integer(whole_number(value, wanted)?),
    }
    .map_err(|problem| BadValue::new(value, problem))
}

/// Reads a value of a key's type from the text of an environment variable.
pub(super) trait FromText: Sized {
    /// The value, or what is wrong with the text in words that continue "KEY: ".
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        }
    }
}

/// An empty text leaves it open.
impl FromText for Option<bool> {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(None),
            text => bool::from_text(text).map(Some),
        }
    }
}

impl FromText for u16 {
    fn from_text(text: &str) -> Result<Self, String> {
        integer(text)
    }
}

impl FromText for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        integer(text)
    }
}

impl FromText for i32 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a whole number of this key's size"))
    }
}

impl FromText for u64 {
    fn from_text(text: &str) -> Result<Self, String> {
        integer(text)
    }
}

/// A list is separated by commas; blanks around an item and empty items do not count.
impl FromText for Vec<String> {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect())
    }
}

fn integer<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    text.parse::<u64>()
        .map_err(|_| format!("{text:?} is not a whole number"))
        .and_then(|number| {
            T::try_from(number).map_err(|_| format!("{number} is too large for this key"))
        })
}

/// A stretch of time: `"25s"`, `"500ms"`, `"5m"`, `"24h"`, or an integer that counts
/// `INTEGER_UNIT_MS` milliseconds.
///
/// The unit of the bare integer belongs to the key: some keys have always been integers, and keep
/// their meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval<const INTEGER_UNIT_MS: u64>(u64);

/// A stretch of time whose bare integer counts seconds.
pub type Seconds = Interval<1000>;
/// A stretch of time whose bare integer counts milliseconds.
pub(super) type Milliseconds = Interval<1>;

/// The units of time, largest first, so that the first one that divides is the shortest way to
/// write a value.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl<const INTEGER_UNIT_MS: u64> Interval<INTEGER_UNIT_MS> {
    /// An interval of so many milliseconds.
    pub const fn from_ms(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The interval in milliseconds.
    pub(super) const fn as_ms(self) -> u64 {
        self.0
    }

    /// The interval as the standard library's type.
    pub(super) const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    fn from_integer(count: u64) -> Result<Self, String> {
        count
            .checked_mul(INTEGER_UNIT_MS)
            .map(Self)
            .ok_or_else(|| format!("{count} is too long a time"))
    }

    fn with_unit(text: &str) -> Result<Self, String> {
        let wanted = "a time such as \"500ms\", \"25s\", \"5m\" or \"24h\"";
        quantity(text, &TIME_UNITS, wanted, "too long a time").map(Self)
    }
}

impl<const INTEGER_UNIT_MS: u64> FromText for Interval<INTEGER_UNIT_MS> {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<u64>() {
            Ok(count) => Self::from_integer(count),
            Err(_) => Self::with_unit(text),
        }
    }
}

impl<const INTEGER_UNIT_MS: u64> fmt::Display for Interval<INTEGER_UNIT_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(self.0, &TIME_UNITS, "0s", f)
    }
}

impl<const INTEGER_UNIT_MS: u64> fmt::Debug for Interval<INTEGER_UNIT_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const INTEGER_UNIT_MS: u64> FromValue for Interval<INTEGER_UNIT_MS> {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let wanted = "a time such as \"25s\", or a whole number";
        integer_or_text(value, wanted, Self::from_integer, Self::with_unit)
    }
}

/// A number of bytes: `"64KiB"`, `"1MiB"`, `"1GiB"`, `"512B"`, or an integer of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(u64);

/// The units of size, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Size {
    /// A size of so many bytes.
    pub(super) const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of so many units of 1024 bytes.
    pub(super) const fn from_kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// A size of so many units of 1024 × 1024 bytes.
    pub(super) const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The size in bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    fn with_unit(text: &str) -> Result<Self, String> {
        let wanted = "a size such as \"512B\", \"64KiB\" or \"1MiB\"";
        quantity(text, &SIZE_UNITS, wanted, "too large a size").map(Self)
    }
}

impl FromText for Size {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<u64>() {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Self::with_unit(text),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(self.0, &SIZE_UNITS, "0B", f)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromValue for Size {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let wanted = "a size such as \"64KiB\", or a whole number of bytes";
        integer_or_text(value, wanted, |bytes| Ok(Self(bytes)), Self::with_unit)
    }
}

/// What `text`, a number with one of `units`, comes to in the smallest of them.
fn quantity(text: &str, units: &[(&str, u64)], wanted: &str, excess: &str) -> Result<u64, String> {
    let (digits, unit) = split_number(text);
    let known = units.iter().find(|(name, _)| *name == unit);
    let (Ok(count), Some((_, factor))) = (digits.parse::<u64>(), known) else {
        return Err(format!("{text:?} is not {wanted}"));
    };
    count
        .checked_mul(*factor)
        .ok_or_else(|| format!("{text:?} is {excess}"))
}

/// Writes `value` in the first of `units` that divides it, and 0, which each of them divides, as
/// `zero`.
fn write_quantity(
    value: u64,
    units: &[(&str, u64)],
    zero: &str,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let fitting = units.iter().find(|(_, unit)| value.is_multiple_of(*unit));
    match fitting.filter(|_| value > 0) {
        Some((name, unit)) => write!(f, "{}{name}", value / unit),
        None => f.write_str(zero),
    }
}

/// Splits `"64KiB"` into its digits and its unit; a blank between the two is allowed.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_read_with_each_unit() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("25s", 25_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7 s", 7000),
            ("0s", 0),
        ] {
            assert_eq!(Seconds::from_text(text), Ok(Seconds::from_ms(milliseconds)));
        }
    }

    #[test]
    fn a_bare_integer_counts_the_unit_of_its_key() {
        assert_eq!(Seconds::from_text("300"), Ok(Seconds::from_ms(300_000)));
        assert_eq!(
            Milliseconds::from_text("300"),
            Ok(Milliseconds::from_ms(300))
        );
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "s",
            "5 minutes",
            "1.5s",
            "-1s",
            "5d",
            "99999999999999999999s",
        ] {
            assert!(Seconds::from_text(text).is_err(), "{text:?} was read");
        }
        assert!(Seconds::from_text(&u64::MAX.to_string()).is_err());
        assert!(Seconds::from_text(&format!("{}h", u64::MAX)).is_err());
    }

    #[test]
    fn a_size_is_read_with_each_unit() {
        for (text, bytes) in [
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("2 GiB", 2_147_483_648),
        ] {
            assert_eq!(Size::from_text(text), Ok(Size::from_bytes(bytes)));
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "KiB", "64kb", "64K", "1.5MiB", "-1"] {
            assert!(Size::from_text(text).is_err(), "{text:?} was read");
        }
        assert!(Size::from_text(&format!("{}GiB", u64::MAX)).is_err());
    }

    #[test]
    fn a_list_is_separated_by_commas() {
        assert_eq!(
            Vec::from_text(" a, b ,,c"),
            Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])
        );
    }

    #[test]
    fn integers_and_truth_values_are_read_strictly() {
        assert_eq!(u16::from_text("65535"), Ok(65535));
        assert!(u16::from_text("65536").is_err());
        assert!(u32::from_text("-1").is_err());
        assert!(u64::from_text("1_000").is_err());
        assert_eq!(bool::from_text("false"), Ok(false));
        assert!(bool::from_text("yes").is_err());
    }

    proptest! {
        #[test]
        fn a_written_time_reads_back_as_itself(milliseconds in 0..u64::MAX / 3_600_000) {
            let value = Seconds::from_ms(milliseconds);
            prop_assert_eq!(Seconds::from_text(&value.to_string()), Ok(value));
        }

        #[test]
        fn a_written_size_reads_back_as_itself(bytes: u64) {
            let value = Size::from_bytes(bytes);
            prop_assert_eq!(Size::from_text(&value.to_string()), Ok(value));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = Seconds::from_text(&text);
            let _ = Size::from_text(&text);
            let _ = Vec::<String>::from_text(&text);
        }
    }
}
