//! Reads the file and the environment into one [`File`], and remembers where each value came from.
//!
//! Owns the messages about what cannot be read: unknown sections, keys and variables, wrong types, broken TOML.
//! Never judges a value of the right type. Invariant: a value in the result comes from the last of default, file and
//! environment that names its key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::file::{File, SECTIONS};
use crate::error::{ExitCode, StartupError};

/// What every variable of ours begins with.
const PREFIX: &str = "IM_GATEWAY__";
/// No configuration is longer; a device or a log given by mistake is not read to its end.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// What the surroundings say: the variables of the process and the name of the machine.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables, in any order.
    pub variables: Vec<(OsString, OsString)>,
    /// The machine's name.
    pub host_name: String,
}

impl Environment {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            host_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        }
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables
            .iter()
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value)
    }
}

/// Where the value of each key came from, for messages.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    places: BTreeMap<(&'static str, &'static str), String>,
}

impl Origins {
    /// The key with the place of its value, as in `im.toml line 4: [network] backlog`.
    pub fn describe(&self, section: &str, key: &str) -> String {
        match self.places.get(&(section, key)) {
            Some(place) => format!("{place}: [{section}] {key}"),
            None => format!("[{section}] {key}"),
        }
    }

    fn set(&mut self, section: &str, key: &str, place: String) {
        if let Some(name) = known(section, key) {
            self.places.insert(name, place);
        }
    }
}

/// An error in the configuration: where, and what.
pub fn config_error(place: impl Into<String>, problem: impl fmt::Display) -> StartupError {
    StartupError::new(ExitCode::Config, place, problem, "")
}

/// Reads default ← file ← environment.
pub fn read(
    path: Option<&Path>,
    environment: &Environment,
) -> Result<(File, Origins), StartupError> {
    let mut origins = Origins::default();
    let mut values = match path {
        Some(path) => {
            let text = read_text(path)?;
            parse(&path.display().to_string(), &text, &mut origins)?
        }
        None => File::default(),
    };
    override_from(environment, &mut values, &mut origins)?;
    Ok((values, origins))
}

fn read_text(path: &Path) -> Result<String, StartupError> {
    let place = format!("cannot read the configuration {}", path.display());
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > FILE_LIMIT_BYTES => Err(config_error(
            place,
            format!("it is longer than {FILE_LIMIT_BYTES} bytes"),
        )),
        Ok(_) => Ok(text),
        Err(error) => Err(config_error(place, error)),
    }
}

/// Parses the text of a file; `name` stands for it in messages.
pub fn parse(name: &str, text: &str, origins: &mut Origins) -> Result<File, StartupError> {
    let at = |offset: usize| format!("{name} line {}", line_of(text, offset));
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        config_error(at(offset), error.message())
    })?;
    for (section, value) in table.get_ref() {
        let place = at(section.span().start);
        let section: &str = section.get_ref();
        let Some((_, keys)) = SECTIONS.iter().find(|(name, _)| *name == section) else {
            return Err(config_error(
                place,
                unknown_section(section, value.get_ref()),
            ));
        };
        let DeValue::Table(entries) = value.get_ref() else {
            return Err(config_error(
                place,
                format!("{section} is a section and is written [{section}]"),
            ));
        };
        for key in entries.keys() {
            let place = at(key.span().start);
            let key: &str = key.get_ref();
            if !keys.contains(&key) {
                return Err(config_error(place, unknown_key(section, key, keys)));
            }
            origins.set(section, key, place);
        }
    }
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let place = match key_at(table.get_ref(), offset) {
            Some((section, key)) => format!("{}: [{section}] {key}", at(offset)),
            None => at(offset),
        };
        config_error(place, error.message())
    })
}

/// The key whose value spans `offset`.
fn key_at<'a>(table: &'a DeTable<'_>, offset: usize) -> Option<(&'a str, &'a str)> {
    table.iter().find_map(|(section, value)| {
        let entries = value.get_ref().as_table()?;
        let (key, _) = entries
            .iter()
            .find(|(_, value)| value.span().contains(&offset))?;
        let (section, key): (&str, &str) = (section.get_ref(), key.get_ref());
        Some((section, key))
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn override_from(
    environment: &Environment,
    values: &mut File,
    origins: &mut Origins,
) -> Result<(), StartupError> {
    let mut ours: Vec<_> = environment
        .variables
        .iter()
        .filter(|(name, value)| {
            name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) && !value.is_empty()
        })
        .collect();
    // Of several wrong variables the same one is always reported.
    ours.sort();
    for (name, value) in ours {
        let lossy = name.to_string_lossy();
        let Some((section, key)) = SECTIONS.iter().find_map(|(section, keys)| {
            let key = keys
                .iter()
                .find(|key| variable_name(section, key) == lossy)?;
            Some((*section, *key))
        }) else {
            return Err(config_error(
                format!("environment variable {}", lossy.escape_debug()),
                unknown_variable(&lossy),
            ));
        };
        let place = format!("environment variable {lossy}");
        let Some(text) = value.to_str() else {
            return Err(config_error(place, "its value is not UTF-8"));
        };
        values
            .set_text(section, key, text.trim())
            .map_err(|problem| config_error(&place, problem))?;
        origins.set(section, key, place);
    }
    Ok(())
}

/// The variable that overrides a key.
pub fn variable_name(section: &str, key: &str) -> String {
    format!("{PREFIX}{section}__{key}").to_ascii_uppercase()
}

fn known(section: &str, key: &str) -> Option<(&'static str, &'static str)> {
    let (section, keys) = SECTIONS.iter().find(|(name, _)| *name == section)?;
    let key = keys.iter().find(|name| **name == key)?;
    Some((section, key))
}

fn unknown_section(name: &str, value: &DeValue<'_>) -> String {
    if !value.is_table()
        && let Some((section, _)) = SECTIONS.iter().find(|(_, keys)| keys.contains(&name))
    {
        return format!("the key {name} belongs into the section [{section}]");
    }
    let nearest = nearest(name, SECTIONS.iter().map(|(section, _)| *section));
    format!(
        "unknown section [{}], the nearest is [{nearest}]",
        name.escape_debug()
    )
}

fn unknown_key(section: &str, key: &str, keys: &[&str]) -> String {
    if let Some((other, _)) = SECTIONS.iter().find(|(_, keys)| keys.contains(&key)) {
        return format!("unknown key {key} in [{section}]; it belongs into [{other}]");
    }
    let nearest = nearest(key, keys.iter().copied());
    format!(
        "unknown key {} in [{section}], the nearest is {nearest}",
        key.escape_debug()
    )
}

fn unknown_variable(name: &str) -> String {
    let names: Vec<String> = SECTIONS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(|key| variable_name(section, key)))
        .collect();
    let nearest = nearest(name, names.iter().map(String::as_str));
    format!("it names no key, the nearest is {nearest}")
}

/// The candidate most like `name`; of equals the first.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> &'a str {
    let lower = name.to_lowercase();
    candidates
        .map(|candidate| {
            let likeness = strsim::jaro_winkler(&lower, &candidate.to_lowercase());
            (likeness, candidate)
        })
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map_or("", |(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::value::{Seconds, Size};

    fn parse_text(text: &str) -> Result<File, String> {
        parse("im.toml", text, &mut Origins::default()).map_err(|error| {
            assert_eq!(error.code, ExitCode::Config);
            error.to_string()
        })
    }

    fn with_variables(variables: &[(&str, &str)]) -> Result<File, String> {
        let environment = Environment {
            variables: variables
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect(),
            host_name: String::new(),
        };
        read(None, &environment)
            .map(|(values, _)| values)
            .map_err(|error| {
                assert_eq!(error.code, ExitCode::Config);
                error.to_string()
            })
    }

    #[test]
    fn keys_that_are_not_written_keep_their_defaults() {
        let values = parse_text("[gateway_service]\nport = 7000\n").expect("valid");
        let mut expected = File::default();
        expected.gateway_service.port = 7000;
        assert_eq!(values, expected);
    }

    #[test]
    fn times_and_sizes_may_be_integers_in_their_units_or_texts_with_a_unit() {
        let values = parse_text(
            "[network]\ntcp_keepalive = 90\nsend_buffer_size = 32768\nreceive_buffer_size = '16KiB'\n\
             [load_balancer]\nretry_interval = 250\n[rpc]\nrpc_timeout = '500ms'\n",
        )
        .expect("valid");
        assert_eq!(values.network.tcp_keepalive, Seconds::from_ms(90_000));
        assert_eq!(values.network.send_buffer_size, Size::from_bytes(32_768));
        assert_eq!(values.network.receive_buffer_size, Size::from_kib(16));
        assert_eq!(values.load_balancer.retry_interval.as_ms(), 250);
        assert_eq!(values.rpc.rpc_timeout.as_ms(), 500);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_its_section_and_the_nearest_key() {
        assert_eq!(
            parse_text("# one\n[gateway_service]\nmax_conections = 5\n"),
            Err(
                "im.toml line 3: unknown key max_conections in [gateway_service], the nearest is max_connections"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
        let error = parse_text("[network]\nport = 5\n").expect_err("wrong section");
        assert_eq!(
            error,
            "im.toml line 2: unknown key port in [network]; it belongs into [gateway_service]"
        );
        let error = parse_text("port = 5\n").expect_err("no section");
        assert!(
            error.contains("belongs into the section [gateway_service]"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_section_is_told_the_nearest_one() {
        let error = parse_text("\n[netwrok]\n").expect_err("unknown section");
        assert_eq!(
            error,
            "im.toml line 2: unknown section [netwrok], the nearest is [network]"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line_and_key() {
        for (text, start) in [
            (
                "[gateway_service]\n\nport = 'x'\n",
                "im.toml line 3: [gateway_service] port: ",
            ),
            (
                "[gateway_service]\nport = 70000\n",
                "im.toml line 2: [gateway_service] port: ",
            ),
            (
                "[network]\ntcp_keepalive = '5 days'\n",
                "im.toml line 2: [network] tcp_keepalive: ",
            ),
            (
                "[network]\ntcp_keepalive = -5\n",
                "im.toml line 2: [network] tcp_keepalive: ",
            ),
            (
                "[limits]\nlimit_exempt = [\n'::1',\n7]\n",
                "im.toml line 4: [limits] limit_exempt: ",
            ),
            ("network = 5\n", "im.toml line 1: network is a section"),
        ] {
            let error = parse_text(text).expect_err(text);
            assert!(error.starts_with(start), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        for text in [
            "[network]\nbacklog = \n",
            "[network]\nbacklog = 1\nbacklog = 2\n",
            "[ops]\n[",
        ] {
            let error = parse_text(text).expect_err(text);
            assert!(error.starts_with("im.toml line "), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn the_environment_overrides_by_the_type_of_the_key() {
        let values = with_variables(&[
            ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "7000"),
            ("IM_GATEWAY__GATEWAY_SERVICE__BANNER", "false"),
            ("IM_GATEWAY__GATEWAY_SERVICE__CONNECTION_TIMEOUT", "60"),
            ("IM_GATEWAY__LIMITS__OUTBOUND_QUEUE_BYTES", "2MiB"),
            ("IM_GATEWAY__LIMITS__LIMIT_EXEMPT", "10.0.0.0/8, ::1/128"),
            ("UNRELATED", "x"),
        ])
        .expect("valid");
        assert_eq!(values.gateway_service.port, 7000);
        assert!(!values.gateway_service.banner);
        assert_eq!(values.gateway_service.connection_timeout.as_ms(), 60_000);
        assert_eq!(values.limits.outbound_queue_bytes, Size::from_mib(2));
        assert_eq!(values.limits.limit_exempt, ["10.0.0.0/8", "::1/128"]);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let values = with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PORT", "")]).expect("valid");
        assert_eq!(values, File::default());
    }

    #[test]
    fn an_unknown_variable_is_told_the_nearest_one() {
        let error = with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PROT", "1")])
            .expect_err("unknown variable");
        assert_eq!(
            error,
            "environment variable IM_GATEWAY__GATEWAY_SERVICE__PROT: it names no key, \
             the nearest is IM_GATEWAY__GATEWAY_SERVICE__PORT"
        );
    }

    #[test]
    fn a_wrong_value_in_the_environment_names_the_variable() {
        let error = with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PORT", "many")])
            .expect_err("wrong value");
        assert_eq!(
            error,
            "environment variable IM_GATEWAY__GATEWAY_SERVICE__PORT: \"many\" is not a whole number"
        );
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("im.toml");
        std::fs::write(&path, "[gateway_service]\nport = 1\nhost = '::1'\n").expect("written");
        let environment = Environment {
            variables: vec![("IM_GATEWAY__GATEWAY_SERVICE__PORT".into(), "2".into())],
            host_name: String::new(),
        };
        let (values, origins) = read(Some(&path), &environment).expect("valid");
        assert_eq!(values.gateway_service.port, 2);
        assert_eq!(values.gateway_service.host, "::1");
        assert_eq!(
            origins.describe("gateway_service", "port"),
            "environment variable IM_GATEWAY__GATEWAY_SERVICE__PORT: [gateway_service] port"
        );
        assert!(
            origins
                .describe("gateway_service", "host")
                .contains("line 3")
        );
        assert_eq!(
            origins.describe("gateway_service", "banner"),
            "[gateway_service] banner"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_configuration_error() {
        let environment = Environment::default();
        for path in ["/nonexistent/im.toml", "/", "/dev/zero"] {
            let error = read(Some(Path::new(path)), &environment).expect_err(path);
            assert_eq!(error.code, ExitCode::Config);
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = parse_text(&text);
        }

        #[test]
        fn no_variable_makes_the_reader_panic(name: String, value: String) {
            let _ = with_variables(&[(&format!("{PREFIX}{name}"), &value)]);
        }

        #[test]
        fn every_error_is_one_line(section in "[a-z_\\\\\"]{0,12}", key in "\\PC{0,12}", value in "\\PC{0,12}") {
            if let Err(error) = parse_text(&format!("[{section}]\n{key} = {value}\n")) {
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }
    }
}
