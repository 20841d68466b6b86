//! Reads the file and the environment into one [`File`], and remembers where each value came from.
//!
//! Owns the messages about what cannot be read: unknown sections, keys and variables, wrong types,
//! broken TOML. Never judges a value of the right type. Invariant: a value in the result comes from
//! the last of default, file and environment that names its key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::file::{File, SECTIONS};
use super::listener::{self, Listeners};
use super::value::FromValue as _;

/// What every variable of ours begins with.
const PREFIX: &str = "IM_GATEWAY__";
/// A variable with so many wrong letters at most is taken for a misspelt one of ours.
const MISSPELT_LETTERS: usize = 2;
/// No configuration is longer; a device or a log given by mistake is not read to its end.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// The environment: the variables of the process and the name of the machine.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables, in any order.
    pub variables: Vec<(OsString, OsString)>,
    /// The machine's name.
    pub host_name: String,
}

impl Environment {
    /// That of this process.
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
    pub(super) fn variable(&self, name: &str) -> Option<&OsString> {
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
    /// Whether somebody has written the key.
    pub fn has(&self, section: &str, key: &str) -> bool {
        self.places.contains_key(&(section, key))
    }

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

/// Something wrong in the configuration: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    place: String,
    problem: String,
}

impl Mistake {
    /// A mistake at `place`.
    pub fn new(place: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            place: place.into(),
            problem: problem.to_string(),
        }
    }
}

impl fmt::Display for Mistake {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Reads default ← file ← environment. The error has all mistakes, those of the file first.
pub fn read(
    path: Option<&Path>,
    environment: &Environment,
) -> Result<(File, Origins), Vec<Mistake>> {
    let mut origins = Origins::default();
    let mut mistakes = Vec::new();
    let mut values = File::default();
    if let Some(path) = path {
        let read = read_text(path)
            .map_err(|mistake| vec![mistake])
            .and_then(|text| parse(&path.display().to_string(), &text, &mut origins));
        match read {
            Ok(read) => values = read,
            Err(found) => mistakes.extend(found),
        }
    }
    mistakes.extend(override_from(environment, &mut values, &mut origins));
    if mistakes.is_empty() {
        Ok((values, origins))
    } else {
        Err(mistakes)
    }
}

fn read_text(path: &Path) -> Result<String, Mistake> {
    let place = format!("cannot read the configuration {}", path.display());
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > FILE_LIMIT_BYTES => Err(Mistake::new(
            place,
            format!("it is longer than {FILE_LIMIT_BYTES} bytes"),
        )),
        Ok(_) => Ok(text),
        Err(error) => Err(Mistake::new(place, error)),
    }
}

/// Parses the text of a file; `name` stands for it in messages. The error has all mistakes, in the
/// order of the file.
pub fn parse(name: &str, text: &str, origins: &mut Origins) -> Result<File, Vec<Mistake>> {
    let at = |offset: usize| format!("{name} line {}", line_of(text, offset));
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        vec![Mistake::new(at(offset), error.message())]
    })?;
    let mut values = File::default();
    let mut mistakes = Vec::new();
    for (section, value) in table.get_ref() {
        let offset = section.span().start;
        let section: &str = section.get_ref();
        if section == listener::SECTION {
            match Listeners::from_value(value) {
                Ok(listeners) => values.listener = listeners,
                Err(bad) => {
                    let place = format!("{}: [{section}]", at(bad.offset));
                    mistakes.push((bad.offset, place, bad.problem));
                }
            }
            origins.set(section, listener::ANY_NAME, at(offset));
            continue;
        }
        let Some((_, keys)) = SECTIONS.iter().find(|(name, _)| *name == section) else {
            mistakes.push((
                offset,
                at(offset),
                unknown_section(section, value.get_ref()),
            ));
            continue;
        };
        let DeValue::Table(entries) = value.get_ref() else {
            let problem = format!("{section} is a section and is written [{section}]");
            mistakes.push((offset, at(offset), problem));
            continue;
        };
        for (key, value) in entries {
            let offset = key.span().start;
            let key: &str = key.get_ref();
            if !keys.contains(&key) {
                mistakes.push((offset, at(offset), unknown_key(section, key, keys)));
            } else if let Err(bad) = values.set_value(section, key, value) {
                let place = format!("{}: [{section}] {key}", at(bad.offset));
                mistakes.push((bad.offset, place, bad.problem));
            } else {
                origins.set(section, key, at(offset));
            }
        }
    }
    if mistakes.is_empty() {
        return Ok(values);
    }
    // The parser keeps names in the order of the alphabet.
    mistakes.sort();
    let in_order = mistakes.into_iter();
    Err(in_order
        .map(|(_, place, problem)| Mistake::new(place, problem))
        .collect())
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn override_from(
    environment: &Environment,
    values: &mut File,
    origins: &mut Origins,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut ours: Vec<_> = environment
        .variables
        .iter()
        .filter(|(name, value)| {
            name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) && !value.is_empty()
        })
        .collect();
    // Mistakes always come in the same order.
    ours.sort();
    for (name, value) in ours {
        let lossy = name.to_string_lossy();
        let Some((section, key)) = SECTIONS.iter().find_map(|(section, keys)| {
            let key = keys
                .iter()
                .find(|key| variable_name(section, key) == lossy)?;
            Some((*section, *key))
        }) else {
            let place = format!("environment variable {}", lossy.escape_debug());
            mistakes.push(Mistake::new(place, unknown_variable(&lossy)));
            continue;
        };
        let place = format!("environment variable {lossy}");
        let set = match value.to_str() {
            Some(text) => values.set_text(section, key, text.trim()),
            None => Err("its value is not UTF-8".to_owned()),
        };
        match set {
            Ok(()) => origins.set(section, key, place),
            Err(problem) => mistakes.push(Mistake::new(place, problem)),
        }
    }
    mistakes
}

/// Variables that do nothing and look as if they were meant to: each with the one that was probably
/// meant.
pub fn misspelt_variables(environment: &Environment) -> Vec<(String, String)> {
    let letters = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_uppercase()
    };
    let known: Vec<(String, String)> = variable_names()
        .map(|name| (letters(&name), name))
        .collect();
    let mut found = Vec::new();
    for (name, _) in &environment.variables {
        // What begins with the right prefix is an error if it is wrong.
        let Some(name) = name.to_str().filter(|name| !name.starts_with(PREFIX)) else {
            continue;
        };
        let spelt = letters(name);
        if !spelt.starts_with("IMGATE") {
            continue;
        }
        let meant = known
            .iter()
            .map(|(letters, known)| (strsim::osa_distance(letters, &spelt), known))
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, _)| *distance <= MISSPELT_LETTERS);
        if let Some((_, meant)) = meant {
            found.push((name.to_owned(), meant.clone()));
        }
    }
    found.sort();
    found
}

fn variable_names() -> impl Iterator<Item = String> {
    SECTIONS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(|key| variable_name(section, key)))
}

/// The variable that overrides a key.
fn variable_name(section: &str, key: &str) -> String {
    format!("{PREFIX}{section}__{key}").to_ascii_uppercase()
}

fn known(section: &str, key: &str) -> Option<(&'static str, &'static str)> {
    if section == listener::SECTION {
        return Some((listener::SECTION, listener::ANY_NAME));
    }
    let (section, keys) = SECTIONS.iter().find(|(name, _)| *name == section)?;
    let key = keys.iter().find(|name| **name == key)?;
    Some((section, key))
}

fn unknown_section(name: &str, value: &DeValue<'_>) -> String {
    if !value.is_table()
        && let Some((section, _)) = SECTIONS.iter().find(|(_, keys)| keys.contains(&name))
    {
        return format!("the key {name} belongs to the section [{section}]");
    }
    let nearest = nearest(name, SECTIONS.iter().map(|(section, _)| *section));
    format!(
        "unknown section [{}], the nearest is [{nearest}]",
        name.escape_debug()
    )
}

fn unknown_key(section: &str, key: &str, keys: &[&str]) -> String {
    if let Some((other, _)) = SECTIONS.iter().find(|(_, keys)| keys.contains(&key)) {
        return format!("unknown key {key} in [{section}]; it belongs to [{other}]");
    }
    let nearest = nearest(key, keys.iter().copied());
    format!(
        "unknown key {} in [{section}], the nearest is {nearest}",
        key.escape_debug()
    )
}

fn unknown_variable(name: &str) -> String {
    let names: Vec<String> = variable_names().collect();
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
mod tests;
