//! Names of users and groups: which may be given, and which look alike.
//!
//! Owns the rules, by Unicode's UTS #39; the tables are those of the crates. Text in, verdicts out.
//! New names are judged by [`check_new_user_name`]; names that accounts have may be older than
//! these rules, so logging in asks for no more than [`is_user_name`].

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, ExtendedPictographic, GeneralCategory},
};
use unicode_normalization::UnicodeNormalization;
use unicode_security::{GeneralSecurityProfile, RestrictionLevel, RestrictionLevelDetection};

/// Longest name of a user, in bytes.
const NAME_BYTES: usize = 64;

/// What new users may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alphabet {
    /// Names of any script in use, of one script each, or of those that are written together.
    #[default]
    Unicode,
    /// Visible ASCII characters alone.
    Ascii,
}

/// Whether this can be the name of a user: 1 to 64 bytes without white space, control characters,
/// `:` or `,`.
pub fn is_user_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',');
    (1..=NAME_BYTES).contains(&name.len()) && !name.contains(forbidden)
}

/// Whether a new user may have this name.
///
/// # Errors
/// What is wrong with it, in words for the user.
pub fn check_new_user_name(name: &str, alphabet: Alphabet) -> Result<(), &'static str> {
    if !is_user_name(name) {
        return Err("a user name is 1 to 64 bytes without spaces, control characters, : or ,");
    }
    if !hides_nothing(name) {
        return Err("a user name holds no invisible or direction-changing characters");
    }
    if alphabet == Alphabet::Ascii && !name.is_ascii() {
        return Err("a user name is of ASCII characters here");
    }
    if name.chars().next().is_some_and(is_mark) {
        return Err("a user name does not begin with an accent");
    }
    // UTS #39 judges identifiers, in which most of ASCII's signs have no place. Here they have, and
    // they belong to no script.
    let scripts: String = name
        .chars()
        .filter(|c| !c.is_ascii_graphic() || c.identifier_allowed())
        .collect();
    if !scripts.check_restriction_level(RestrictionLevel::HighlyRestrictive) {
        return Err("a user name is of letters in use, of one script");
    }
    Ok(())
}

/// Whether everything in `text` is seen, and nothing in it changes the direction of what is around
/// it. What joins emoji and chooses their form is seen, where it stands between them.
pub fn hides_nothing(text: &str) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let pictographic = CodePointSetData::new::<ExtendedPictographic>();
    let mut before = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let in_emoji = match c {
            EMOJI_STYLE => before.is_some_and(|before| pictographic.contains(before)),
            JOINER => {
                let joins = |before| {
                    pictographic.contains(before)
                        || before == EMOJI_STYLE
                        || SKIN_TONES.contains(&before)
                };
                let next = rest.clone().next();
                before.is_some_and(joins) && next.is_some_and(|next| pictographic.contains(next))
            }
            _ => false,
        };
        if !in_emoji && (ignorable.contains(c) || is_blank(c)) {
            return false;
        }
        before = Some(c);
    }
    true
}

const JOINER: char = '\u{200d}';
const EMOJI_STYLE: char = '\u{fe0f}';
const SKIN_TONES: std::ops::RangeInclusive<char> = '\u{1f3fb}'..='\u{1f3ff}';
/// A pattern of Braille without a dot: a sign by its category, and empty to the eye.
const BRAILLE_BLANK: char = '\u{2800}';

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// What has no shape of its own, or none that is known. White space is not meant: it is seen by
/// what it divides.
fn is_blank(c: char) -> bool {
    c == BRAILLE_BLANK
        || matches!(
            category(c),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::PrivateUse
                | GeneralCategory::Surrogate
                | GeneralCategory::Unassigned
        )
}

/// It is drawn upon what stands before it, which is not the name's.
fn is_mark(c: char) -> bool {
    matches!(
        category(c),
        GeneralCategory::NonspacingMark
            | GeneralCategory::EnclosingMark
            | GeneralCategory::SpacingMark
    )
}

/// `name` without what is no difference to who types it: case, width, forms of one letter,
/// characters without a shape.
pub fn fold(name: &str) -> String {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let once: String = caseless::default_case_fold_str(&name.nfd().collect::<String>())
        .nfkc()
        .collect();
    caseless::default_case_fold_str(&once)
        .nfkc()
        .filter(|c| !ignorable.contains(*c))
        .collect()
}

/// What `name` looks like, folded: names with one skeleton cannot be told apart.
pub fn skeleton(name: &str) -> String {
    unicode_security::skeleton(&fold(name)).collect()
}

/// Names the rules by which [`skeleton`] goes. What was kept under other rules has to be made anew.
pub fn rules_version() -> String {
    /// Raised when this file changes what a skeleton is.
    const OWN_VERSION: u32 = 1;
    format!(
        "{OWN_VERSION} {:?} {:?}",
        unicode_security::UNICODE_VERSION,
        unicode_normalization::UNICODE_VERSION
    )
}

#[cfg(test)]
mod tests;
