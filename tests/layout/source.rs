//! Reading the sources as text: which files there are, which of them are only for tests, and a
//! file with its comments, literals and tests blanked.

use std::{
    fs,
    path::{Path, PathBuf},
};

pub struct Source {
    /// Below `src/`.
    pub path: PathBuf,
    pub text: String,
}

impl Source {
    pub fn shown(&self) -> String {
        format!("src/{}", self.path.display())
    }
}

pub fn sources_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

pub fn sources() -> Vec<Source> {
    rust_files("src")
}

/// All Rust sources in a folder of the project, with paths below it.
pub fn rust_files(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.extend((!path.ends_with("target")).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable source");
                let path = path.strip_prefix(&root).expect("below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty());
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The sources that are not only for tests.
pub fn product_sources() -> Vec<Source> {
    let sources = sources();
    let test_modules: Vec<_> = sources.iter().flat_map(test_modules).collect();
    let is_test = |path: &Path| {
        test_modules
            .iter()
            .any(|module| path == module.with_extension("rs") || path.starts_with(module))
    };
    let mut product = sources;
    product.retain(|source| !is_test(&source.path));
    product
}

/// The modules that are only for tests, such as `command/tests` of `command.rs`.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let code = blank_comments_and_literals(&source.text);
    let folder = if source.path.ends_with("mod.rs") || source.path.ends_with("lib.rs") {
        source.path.with_file_name("")
    } else {
        source.path.with_extension("")
    };
    test_items(&code)
        .into_iter()
        .filter_map(|(start, end)| code[start..end].split_once("mod ")?.1.strip_suffix(';'))
        .map(|name| folder.join(name.trim()))
        .collect()
}

/// Where the items stand that `#[cfg(test)]` precedes: from the attribute to the item's `;` or
/// closing brace.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mark = "#[cfg(test)]";
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].find(mark) {
        let start = from + offset;
        let mut depth = 0;
        let mut end = code.len();
        for (index, character) in code[start..].char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (character == '}' || character == ';') && depth == 0 {
                end = start + index + 1;
                break;
            }
        }
        found.push((start, end));
        from = end;
    }
    found
}

pub fn blank_tests(code: &str) -> String {
    let mut blanked = code.to_owned();
    for (start, end) in test_items(code) {
        blanked.replace_range(start..end, &blank(&code[start..end]));
    }
    blanked
}

/// As many bytes, of which only the line breaks stay.
fn blank(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
        .collect()
}

/// The source with comments, strings and character literals blanked, every other byte in its place.
pub fn blank_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        // Nothing else begins a comment or a literal; most of a source is nothing else.
        if !matches!(first, '/' | '"' | '\'' | 'b' | 'c' | 'r') {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = comment_length(rest).or_else(|| {
            let prefix = if after_word {
                0
            } else {
                literal_prefix_length(rest)
            };
            literal_length(&rest[prefix..], &rest[..prefix]).map(|length| prefix + length)
        });
        let length = match length {
            Some(length) => {
                code.push_str(&blank(&rest[..length]));
                length
            }
            None => {
                code.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    code
}

fn comment_length(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut index) = (0, 0);
    while index < text.len() {
        let step = match &text.as_bytes()[index..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        index += step;
        if depth == 0 {
            return Some(index);
        }
    }
    Some(text.len())
}

/// The letters before a literal: `b`, `c`, `r`, `br`, `cr`.
fn literal_prefix_length(text: &str) -> usize {
    ["br", "cr", "b", "c", "r"]
        .into_iter()
        .find(|prefix| {
            text.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(['"', '#', '\'']))
        })
        .map_or(0, str::len)
}

fn literal_length(text: &str, prefix: &str) -> Option<usize> {
    if prefix.ends_with('r') {
        let hashes = text.bytes().take_while(|byte| *byte == b'#').count();
        text[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let body = hashes + 1;
        return Some(
            text[body..]
                .find(&end)
                .map_or(text.len(), |index| body + index + end.len()),
        );
    }
    let quote = text
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''))?;
    // A quote that does not close after one character or an escape begins a lifetime.
    if quote == '\'' && !text[1..].starts_with('\\') && text.chars().nth(2) != Some('\'') {
        return None;
    }
    let mut escaped = false;
    for (index, character) in text.char_indices().skip(1) {
        if character == quote && !escaped {
            return Some(index + 1);
        }
        escaped = character == '\\' && !escaped;
    }
    Some(text.len())
}

pub fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// The line, counted from one, in which the byte `at` stands.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The identifiers and keywords in `code`, each with where it begins.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// The reading itself.
mod rules {
    use super::*;

    #[test]
    fn a_module_of_the_test_build_is_told_from_others() {
        let source = |path: &str| Source {
            path: path.into(),
            text: "mod wheel;\n#[cfg(test)]\nmod tests;\n".into(),
        };
        assert_eq!(
            test_modules(&source("shard/mod.rs")),
            [PathBuf::from("shard/tests")]
        );
        assert_eq!(
            test_modules(&source("shard/slab.rs")),
            [PathBuf::from("shard/slab/tests")]
        );
    }
}
