//! Holds the sources to the rules of the house: pure modules know no socket, clock, thread or runtime; `unsafe` has one
//! home; every file says what it is and stays readable in one sitting.
//!
//! Reads text, not syntax trees: comments and literals are blanked first, then words are looked for.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Folders and files that turn values into values.
const PURE: &[&str] = &[
    "base",
    "contract",
    "protocol",
    "session",
    "shard",
    "flow",
    "limits",
    "token.rs",
    "bus/redis/subscriber.rs",
    "bus/redis/publisher/answers.rs",
    "bus/redis/publisher/packing.rs",
    "rpc/client",
    "rpc/server/connection.rs",
    "rpc/server/places.rs",
    "rpc/server/reply_order.rs",
    "rpc/wire",
    "service/fair_queue.rs",
    "service/password/lanes.rs",
];

/// What a pure module must not name: runtimes, system calls, sockets, clocks and random sources.
const FORBIDDEN_WORDS: [&str; 13] = [
    "glommio",
    "tokio",
    "rustix",
    "socket2",
    "getrandom",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];

/// Modules of the standard library a pure module must not name, by path or in a `use`.
const FORBIDDEN_MODULES: [&str; 2] = ["thread", "fs"];

/// The only file that may hold `unsafe`.
const UNSAFE_HOME: &str = "machine/sys.rs";

const LINES_MAX: usize = 600;

#[test]
fn pure_modules_name_no_runtime_socket_clock_thread_or_random_source() {
    let sources = sources();
    let test_files: BTreeSet<_> = sources.iter().flat_map(test_modules).collect();
    let mut offences = String::new();
    for place in PURE {
        assert!(
            sources_root().join(place).exists(),
            "src/{place} is gone: say here where it went"
        );
    }
    for source in &sources {
        let is_pure = PURE.iter().any(|place| source.path.starts_with(place));
        if is_pure && !test_files.contains(&source.path) {
            for (line, word) in impurities(&source.text) {
                let _ = writeln!(offences, "{}:{line}: names {word}", source.shown());
            }
        }
    }
    assert!(
        offences.is_empty(),
        "pure modules take bytes, events and `now_ms`, and give values:\n{offences}"
    );
}

#[test]
fn unsafe_has_one_home() {
    let mut offences = String::new();
    for source in sources()
        .iter()
        .filter(|source| source.path != Path::new(UNSAFE_HOME))
    {
        for (line, text) in numbered(&blank_comments_and_literals(&source.text)) {
            if words(text).any(|(_, word)| word == "unsafe") {
                let _ = writeln!(offences, "{}:{line}: unsafe", source.shown());
            }
        }
    }
    assert!(
        offences.is_empty(),
        "unsafe code lives in src/{UNSAFE_HOME} only:\n{offences}"
    );
}

#[test]
fn every_file_opens_with_what_it_owns_and_has_one_subject() {
    let mut offences = String::new();
    for source in sources() {
        if !source.text.starts_with("//!") {
            let _ = writeln!(offences, "{}:1: does not open with //!", source.shown());
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            let _ = writeln!(
                offences,
                "{}:{lines}: more than {LINES_MAX} lines",
                source.shown()
            );
        }
    }
    assert!(
        offences.is_empty(),
        "files to be explained or divided:\n{offences}"
    );
}

struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn shown(&self) -> String {
        format!("src/{}", self.path.display())
    }
}

fn sources_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let root = sources_root();
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
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

/// The forbidden names in a source, outside its tests, each with its line.
fn impurities(text: &str) -> Vec<(usize, String)> {
    let code = blank_tests(&blank_comments_and_literals(text));
    let mut found = Vec::new();
    let (mut line, mut counted, mut in_use) = (1, 0, false);
    for (start, word) in words(&code) {
        let between = &code[counted..start];
        line += between.matches('\n').count();
        in_use = word == "use" || (in_use && !between.contains(';'));
        counted = start;
        let on_a_path =
            code[..start].ends_with("::") || code[start + word.len()..].starts_with("::");
        if FORBIDDEN_WORDS.contains(&word)
            || (FORBIDDEN_MODULES.contains(&word) && (in_use || on_a_path))
        {
            found.push((line, word.to_owned()));
        }
    }
    found
}

/// The files that are modules only of the test build, such as `command/tests.rs` of `command.rs`.
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
        .map(|name| folder.join(format!("{}.rs", name.trim())))
        .collect()
}

/// Where the items stand that `#[cfg(test)]` precedes: from the attribute to the item's `;` or closing brace.
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

fn blank_tests(code: &str) -> String {
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
fn blank_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
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

fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// The identifiers and keywords in `code`, each with where it begins.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// The rules themselves: a rule that sees nothing holds nobody.
mod rules {
    use super::*;

    #[test]
    fn forbidden_names_are_found_with_their_line() {
        for (text, line, word) in [
            ("use std::time::Instant;", 1, "Instant"),
            (
                "use std::{\n    collections::HashMap,\n    fs,\n};",
                3,
                "fs",
            ),
            ("use std::{thread, fmt};", 1, "thread"),
            ("fn f() {\n    std::thread::yield_now();\n}", 2, "thread"),
            ("use std::net::{IpAddr, TcpStream};", 1, "TcpStream"),
            ("// fine\nfn f() { glommio::executor(); }", 2, "glommio"),
            (
                "#[cfg(test)]\nmod tests { use std::fs; }\nuse tokio::spawn;",
                3,
                "tokio",
            ),
            (
                "fn f<'a>(x: &'a str) { ('\"', x, Instant::now()) }",
                1,
                "Instant",
            ),
        ] {
            assert_eq!(impurities(text), [(line, word.to_owned())], "{text}");
        }
    }

    #[test]
    fn comments_literals_and_tests_may_name_anything() {
        for text in [
            "//! glommio and tokio\n/* Instant /* nested */ std::fs */ fn f() {}",
            r##"fn f() { ("tokio \" std::fs", r#"std::thread " "#, b"Instant", '"', "glommio") }"##,
            "#[cfg(test)]\nmod tests {\n    use std::{fs, thread};\n    fn f() { {} }\n}",
            "#[cfg(test)]\nuse std::fs;\nfn f() {}",
            "use std::net::IpAddr; fn thread(fs: u8) -> u8 { fs }",
        ] {
            assert_eq!(impurities(text), [], "{text}");
        }
    }

    #[test]
    fn a_module_of_the_test_build_is_told_from_others() {
        let source = |path: &str| Source {
            path: path.into(),
            text: "mod wheel;\n#[cfg(test)]\nmod tests;\n".into(),
        };
        assert_eq!(
            test_modules(&source("shard/mod.rs")),
            [PathBuf::from("shard/tests.rs")]
        );
        assert_eq!(
            test_modules(&source("shard/slab.rs")),
            [PathBuf::from("shard/slab/tests.rs")]
        );
    }
}
