//! No line is wider than a reader's window.
//!
//! What cannot be broken may be wider: tables, code in documents, addresses, and the text of
//! literals in code.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::source::{blank_comments_and_literals, numbered, rust_files};

const COLUMNS_MAX: usize = 100;

const RUST: [&str; 3] = ["src", "tests", "benches"];

/// Folders of documents, configuration, scripts and clients, besides the files at the top.
const OTHER: [&str; 12] = [
    ".",
    "docs",
    "conf",
    "systemd",
    "scripts",
    "proto/im/v1",
    "proto/mychat",
    "clients/chat_page",
    "clients/javascript",
    "clients/python",
    "clients/python/im_gateway",
    "tests/clients",
];

#[test]
fn no_line_is_wider_than_a_window() {
    let mut offences = String::new();
    for folder in RUST {
        for source in rust_files(folder) {
            let path = Path::new(folder).join(&source.path);
            for line in wide_rust(&source.text) {
                let _ = writeln!(offences, "{}:{line}", path.display());
            }
        }
    }
    for path in other_files() {
        let text = fs::read_to_string(project().join(&path)).expect("a readable file");
        let measure = match path.extension().and_then(|ending| ending.to_str()) {
            Some("md") => wide_markdown,
            Some("rs") => wide_rust,
            _ => wide,
        };
        for line in measure(&text) {
            let _ = writeln!(offences, "{}:{line}", path.display());
        }
    }
    assert!(
        offences.is_empty(),
        "lines of more than {COLUMNS_MAX} columns:\n{offences}"
    );
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the project is written in besides Rust, by the path below the project.
fn other_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in OTHER {
        let entries = fs::read_dir(project().join(folder)).expect("a readable folder");
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let ending = path.extension().and_then(|extension| extension.to_str());
            let is_ours = match ending {
                Some("md" | "toml" | "proto" | "service" | "rs") => true,
                Some("css" | "html" | "js" | "mjs" | "py" | "ts") => true,
                Some(_) => false,
                None => folder == "scripts",
            };
            if is_ours && path.is_file() {
                let path = path.strip_prefix(project()).expect("below the project");
                found.push(path.strip_prefix(".").unwrap_or(path).to_owned());
            }
        }
    }
    assert!(found.len() > OTHER.len());
    found.sort();
    found
}

fn is_wide(line: &str) -> bool {
    line.chars().count() > COLUMNS_MAX && !line.contains("://")
}

fn wide(text: &str) -> Vec<usize> {
    let wide = numbered(text).filter(|(_, line)| is_wide(line));
    wide.map(|(number, _)| number).collect()
}

/// Code is measured without the text of its literals, which `rustfmt` leaves as it is.
fn wide_rust(text: &str) -> Vec<usize> {
    let code = blank_comments_and_literals(text);
    let mut in_fence = false;
    let mut found = Vec::new();
    for ((number, line), (_, code)) in numbered(text).zip(numbered(&code)) {
        let comment = line.trim_start().strip_prefix("//");
        let comment = comment.map(|comment| comment.trim_start_matches(['/', '!', ' ']));
        in_fence ^= comment.is_some_and(|comment| comment.starts_with("```"));
        let is_wide = is_wide(line)
            && match comment {
                Some(comment) => !in_fence && !comment.starts_with('|'),
                None => line.contains(" // ") || code_width(line, code) > COLUMNS_MAX,
            };
        found.extend(is_wide.then_some(number));
    }
    found
}

/// The columns of `line` without its literals, which are blank in `code`.
fn code_width(line: &str, code: &str) -> usize {
    let indentation = line.len() - line.trim_start().len();
    let words = code.split_whitespace();
    indentation + words.map(|word| word.chars().count() + 1).sum::<usize>()
}

fn wide_markdown(text: &str) -> Vec<usize> {
    let (mut in_fence, mut after_gap) = (false, true);
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        let fence = line.trim_start().starts_with("```");
        in_fence ^= fence;
        let in_block = after_gap && line.starts_with("    ");
        let is_code = in_fence || fence || in_block || line.starts_with('|');
        found.extend((!is_code && is_wide(line)).then_some(number));
        after_gap = line.is_empty() || in_block;
    }
    found
}

mod rules {
    use super::*;

    #[test]
    fn prose_is_measured_and_what_cannot_be_broken_is_not() {
        let long = "word ".repeat(21);
        let document = format!(
            "{long}\n\n    {long}\n    {long}\n\n- item\n    {long}\n| {long} |\n```\n{long}\n```\n"
        );
        assert_eq!(wide_markdown(&document), [1, 7]);
        assert_eq!(wide(&format!("{long}\n{long}https://example.org\n")), [1]);
    }

    #[test]
    fn comments_and_code_are_measured_and_literals_are_not() {
        let long = "word ".repeat(21);
        let source = format!(
            "//! {long}\n//! | {long} |\nlet x = \"{long}\";\nlet y = 1; // {long}\nf({long});\n\
             /// ```text\n/// {long}\n/// ```\n    // {long}\n"
        );
        assert_eq!(wide_rust(&source), [1, 4, 5, 9]);
    }
}
