//! Documents name sources that exist, and the way of a message through them is short.

use std::{collections::BTreeSet, fs, path::Path};

use super::source::sources_root;

/// How many files a reader opens on that way. The number only shrinks.
const FILES_MAX: usize = 12;

/// Documents that name sources.
const DOCUMENTS: [&str; 2] = ["architecture", "storage"];

#[test]
fn documents_name_sources_that_exist() {
    for name in DOCUMENTS {
        let text = document(name);
        for path in quoted(&text).filter(|word| word.contains('/') && word.ends_with(".rs")) {
            let places = [sources_root().join(path), project().join(path)];
            assert!(
                places.iter().any(|place| place.exists()),
                "docs/{name}.md names {path}, which is gone: say where it went"
            );
        }
    }
}

#[test]
fn the_way_of_a_message_leads_through_files_that_exist() {
    let document = document("architecture");
    let steps = steps(&document);
    let mut files = BTreeSet::new();
    for (index, (number, named)) in steps.iter().enumerate() {
        assert_eq!(*number, index + 1, "the steps are numbered in order");
        assert!(!named.is_empty(), "step {number} names the file to open");
        for path in named {
            let exists = sources_root().join(path).exists();
            assert!(
                exists,
                "step {number}: src/{path} is gone, say where it went"
            );
            files.insert(path);
        }
    }
    assert!(steps.len() > 1, "the way has steps");
    assert!(
        files.len() <= FILES_MAX,
        "{} files on the way of a message, {FILES_MAX} at most: {files:?}",
        files.len()
    );
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> String {
    let path = project().join("docs").join(name).with_extension("md");
    fs::read_to_string(path).expect("a readable document")
}

/// What stands between backticks, of which code blocks have none.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The numbered steps below the heading, each with the sources it names in backticks.
fn steps(document: &str) -> Vec<(usize, Vec<&str>)> {
    let (_, section) = document
        .split_once("\n## Life of a message\n")
        .expect("the section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut steps: Vec<(usize, Vec<&str>)> = Vec::new();
    for line in section.lines() {
        let number = line
            .split_once(". ")
            .and_then(|(number, _)| number.parse().ok());
        steps.extend(number.map(|number| (number, Vec::new())));
        if let Some((_, named)) = steps.last_mut() {
            named.extend(quoted(line).filter(|word| word.ends_with(".rs") || word.ends_with('/')));
        }
    }
    steps
}

mod rules {
    use super::*;

    #[test]
    fn a_step_has_its_number_and_its_files() {
        let document = "# A\n\n## Life of a message\n\nSay `x.rs`:\n\n1. **`a/b.rs`** `f` does\n   \
                        as `c.rs` says.\n2. `d/` ends it.\n\n## Life of a push\n\n1. `e.rs`\n";
        let expected = [(1, vec!["a/b.rs", "c.rs"]), (2, vec!["d/"])];
        assert_eq!(steps(document), expected);
    }
}
