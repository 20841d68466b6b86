//! Which top-level folder of `src` may use which.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use super::source::{
    blank_comments_and_literals, blank_tests, line_of, product_sources, sources_root,
};

/// Each folder (or file) and what it may use, from the bottom up: a folder uses only what stands
/// above it in this table, so no two of them can reach each other in a circle.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("proto", &[]),
    ("logging", &[]),
    ("limits", &[]),
    ("machine", &["base"]),
    ("token", &["base"]),
    ("protocol", &["base"]),
    ("contract", &["base", "proto"]),
    ("config", &["base", "contract", "token"]),
    ("tls", &["config", "machine"]),
    ("handoff", &["base", "contract", "proto"]),
    (
        "metrics",
        &["base", "contract", "limits", "logging", "protocol"],
    ),
    ("session", &["base", "limits", "proto", "protocol"]),
    (
        "shard",
        &["base", "limits", "metrics", "proto", "protocol", "session"],
    ),
    (
        "flow",
        &[
            "base", "contract", "limits", "metrics", "proto", "protocol", "session", "shard",
            "token",
        ],
    ),
    (
        "service",
        &["base", "contract", "handoff", "machine", "metrics", "proto"],
    ),
    (
        "bus",
        &[
            "base", "config", "contract", "handoff", "machine", "metrics", "proto", "tls",
        ],
    ),
    (
        "rpc",
        &[
            "base", "config", "contract", "handoff", "limits", "machine", "metrics", "proto",
            "service", "tls",
        ],
    ),
    (
        "discovery",
        &["base", "config", "contract", "machine", "metrics"],
    ),
    (
        "worker",
        &[
            "base", "bus", "config", "contract", "flow", "handoff", "limits", "machine", "metrics",
            "protocol", "rpc", "session", "shard", "tls",
        ],
    ),
    ("control", &["base", "handoff", "logging", "metrics", "tls"]),
    (
        "app",
        &[
            "base",
            "bus",
            "config",
            "contract",
            "control",
            "discovery",
            "flow",
            "handoff",
            "limits",
            "machine",
            "metrics",
            "protocol",
            "rpc",
            "service",
            "shard",
            "tls",
            "token",
            "worker",
        ],
    ),
    (
        "cli",
        &[
            "app", "base", "config", "contract", "logging", "machine", "service",
        ],
    ),
    ("main", &["cli", "logging"]),
];

#[test]
fn a_folder_uses_only_the_layers_below_it() {
    let mut offences = String::new();
    for source in product_sources() {
        let from = top(&source.path);
        if from == "lib" {
            continue;
        }
        let allowed = allowed(&from).unwrap_or_else(|| panic!("LAYERS does not name src/{from}"));
        let code = blank_tests(&blank_comments_and_literals(&source.text));
        for (at, to) in uses(&code) {
            if to != from && !allowed.contains(&to) {
                let line = line_of(&code, at);
                let _ = writeln!(offences, "{}:{line}: {from} -> {to}", source.shown());
            }
        }
    }
    assert!(
        offences.is_empty(),
        "uses that LAYERS in tests/layout/layers.rs does not allow:\n{offences}"
    );
}

#[test]
fn the_layers_have_no_circle() {
    let mut below = BTreeSet::new();
    for (folder, allowed) in LAYERS {
        for used in *allowed {
            assert!(
                below.contains(used),
                "{folder} -> {used}: only what stands above {folder} in LAYERS"
            );
        }
        assert!(below.insert(*folder), "LAYERS names {folder} twice");
    }
}

/// The map at the head of `lib.rs` is what a newcomer reads first.
#[test]
fn the_map_in_lib_rs_is_drawn_as_the_layers_are() {
    let text = fs::read_to_string(sources_root().join("lib.rs")).expect("a readable source");
    let rows = map_rows(&text);
    let row = |folder: &str| {
        rows.iter()
            .position(|row| row.iter().any(|name| name == folder))
            .unwrap_or_else(|| panic!("the map in src/lib.rs does not show {folder}"))
    };
    for (folder, allowed) in LAYERS {
        for used in *allowed {
            assert!(
                row(folder) <= row(used),
                "the map in src/lib.rs draws {used} above {folder}, which uses it"
            );
        }
    }
}

fn allowed(folder: &str) -> Option<&'static [&'static str]> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == folder)
        .map(|(_, allowed)| *allowed)
}

/// The top-level folder of a file below `src`, or the file itself without its ending.
pub fn top(path: &Path) -> String {
    let first = path.iter().next().expect("a path below src");
    let first = Path::new(first).with_extension("");
    first.to_string_lossy().into_owned()
}

/// The top-level modules that `code` names, each with where.
fn uses(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for root in ["crate::", "im_gateway::"] {
        for (at, _) in code.match_indices(root) {
            let tree = at + root.len();
            for offset in heads(&code[tree..]) {
                let name = &code[tree + offset..];
                let end = name.find(|c| !is_word(c)).unwrap_or(name.len());
                found.push((tree + offset, &name[..end]));
            }
        }
    }
    found
}

/// Where the paths begin of which a `use` tree consists: `a::b` has one, `{a::{b, c}, d}` has two.
fn heads(tree: &str) -> Vec<usize> {
    if !tree.starts_with('{') {
        return vec![0];
    }
    let (mut found, mut depth, mut expected) = (Vec::new(), 0, false);
    for (index, character) in tree.char_indices() {
        match character {
            '{' => {
                depth += 1;
                expected = depth == 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            ',' => expected = depth == 1,
            character if expected && is_word(character) => {
                found.push(index);
                expected = false;
            }
            _ => {}
        }
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The names in each row of the first `text` block: what stands before two spaces.
fn map_rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .skip_while(|line| *line != "//! ```text")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| {
            let row = line.trim_start_matches("//!").trim_start();
            let names = row.split("  ").next().unwrap_or_default();
            names
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect()
        })
        .collect()
}

/// The rules themselves: a rule that sees nothing holds nobody.
mod rules {
    use super::*;

    #[test]
    fn every_way_to_name_a_module_is_seen() {
        for (code, names) in [
            ("use crate::shard::Shard;", &["shard"][..]),
            ("fn f() { crate::metrics::add(1) }", &["metrics"]),
            (
                "use crate::{\n    base::id::{self, UserId},\n    flow,\n};",
                &["base", "flow"],
            ),
            ("use im_gateway::{cli, logging};", &["cli", "logging"]),
            ("pub(crate) fn f() {}", &[]),
        ] {
            let found: Vec<_> = uses(code).into_iter().map(|(_, name)| name).collect();
            assert_eq!(found, names, "{code}");
        }
    }

    #[test]
    fn a_file_belongs_to_its_top_level_folder() {
        for (path, folder) in [
            ("app.rs", "app"),
            ("app/cores.rs", "app"),
            ("rpc/client/mod.rs", "rpc"),
        ] {
            assert_eq!(top(Path::new(path)), folder);
        }
    }

    #[test]
    fn a_map_has_a_row_for_each_line_of_its_block() {
        let text =
            "//! # Layers\n//! ```text\n//!   main, cli   ends\n//!   base  words\n//! ```\n";
        assert_eq!(map_rows(text), [vec!["main", "cli"], vec!["base"]]);
    }
}
