//! The configuration: default ← file ← environment, checked once, then fixed.
//!
//! Owns every key, its default and its rules. Never reads a file nobody named, and never changes
//! the environment. Invariants: an unknown key is an error that names the nearest known one; every
//! mistake names the place the value came from (file and line, or variable) and is one line; all of
//! them together carry [`ExitCode::Config`].
//!
//! In the order of the flow: [`mod@file`] lists the keys, [`value`] reads one value, [`source`]
//! reads file and environment, `validate` turns the result into [`Settings`].

pub mod file;
mod issuer;
mod listener;
pub mod settings;
pub mod source;
mod tls;
mod validate;
pub mod value;

use std::path::Path;

pub use settings::Settings;
pub use source::{Environment, Mistake, misspelt_variables};

use crate::base::error::{ExitCode, StartupError};

/// The default configuration with its comments: every key there is.
pub const DEFAULT_TOML: &str = include_str!("../../conf/im-gateway.toml");

/// Reads, overrides and checks the configuration. Without a file the defaults stand in its place.
///
/// # Errors
/// All mistakes that were found, a line each: of the names and types first, and of the values where
/// all of those are right.
pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Settings, StartupError> {
    source::read(file, environment)
        .and_then(|(values, origins)| validate::validate(&values, &origins, environment))
        .map_err(|mistakes| {
            let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
            StartupError::new(ExitCode::Config, lines.join("\n"), "", "")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_states_exactly_the_defaults() {
        let written = source::parse("default", DEFAULT_TOML, &mut source::Origins::default());
        assert_eq!(written, Ok(file::File::default()));
    }

    #[test]
    fn the_default_file_has_every_key_of_every_section_and_no_other() {
        let written: toml::Table = toml::from_str(DEFAULT_TOML).expect("the default file parses");
        let written: Vec<(String, Vec<String>)> = written
            .iter()
            .map(|(section, keys)| {
                let keys = keys.as_table().expect("a section is a table");
                (section.clone(), keys.keys().cloned().collect())
            })
            .collect();
        let mut known: Vec<(String, Vec<String>)> = file::SECTIONS
            .iter()
            .map(|(section, keys)| {
                let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
                keys.sort();
                ((*section).to_owned(), keys)
            })
            .collect();
        known.sort();
        // Tables are written once for each of what they describe: the file shows one in a comment.
        let auth = known.iter_mut().find(|(section, _)| section == "auth");
        auth.expect("a section").1.retain(|key| key != "issuer");
        assert!(DEFAULT_TOML.contains("# [[auth.issuer]]\n"));
        assert_eq!(written, known);
    }

    #[test]
    fn every_key_of_the_default_file_is_commented() {
        let mut previous = "";
        for line in DEFAULT_TOML.lines() {
            if line.contains(" = ") && !line.starts_with('#') {
                assert!(previous.starts_with('#'), "no comment above {line:?}");
            }
            previous = line;
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        load(None, &Environment::default()).expect("defaults are valid");
    }
}
