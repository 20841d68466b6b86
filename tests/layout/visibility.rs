//! Nothing is `pub` that only its own top-level folder uses.
//!
//! Goes by names, so it misses an item whose name something else has, too; it never finds fault
//! with one that is used. A type in the declaration of a `pub` item has to be `pub` itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::{
    layers::top,
    source::{
        blank_comments_and_literals, blank_tests, line_of, product_sources, rust_files, sources,
        words,
    },
};

/// Whose sources use the crate from outside.
const OUTSIDE: [&str; 2] = ["tests", "benches"];

/// What a declaration begins with, after `pub` and before its name.
const KEYWORDS: [&str; 8] = [
    "fn", "struct", "enum", "trait", "type", "mod", "static", "const",
];

#[test]
fn nothing_is_public_that_only_its_own_folder_uses() {
    let users = users_of_names();
    let mut declared_with: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for source in product_sources() {
        let folder = top(&source.path);
        let code = blank_tests(&blank_comments_and_literals(&source.text));
        let public = public_items(&code);
        let named = declared_with.entry(folder.clone()).or_default();
        for item in &public {
            let declaration = item.declaration.strip_prefix(item.name);
            let types = declaration.unwrap_or(item.declaration);
            named.extend(words(types).map(|(_, word)| word.to_owned()));
        }
        let items = public.into_iter().map(|item| {
            let line = line_of(&code, item.at);
            (item.name.to_owned(), format!("{}:{line}", source.shown()))
        });
        found.extend(items.map(|(name, place)| (folder.clone(), name, place)));
    }
    let mut offences = String::new();
    for (folder, name, place) in found {
        let is_used = users[&name].iter().any(|user| *user != folder);
        if !is_used && !declared_with[&folder].contains(&name) {
            let _ = writeln!(offences, "{place}: {name}");
        }
    }
    assert!(
        offences.is_empty(),
        "pub, but only src/<folder> itself uses it; make it private, pub(super) or pub(crate):\n\
         {offences}"
    );
}

/// For each word in any source, the folders whose sources have it.
fn users_of_names() -> BTreeMap<String, BTreeSet<String>> {
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |text: &str, folder: &str| {
        for (_, word) in words(&blank_comments_and_literals(text)) {
            let folders = users.entry(word.to_owned()).or_default();
            if !folders.contains(folder) {
                folders.insert(folder.to_owned());
            }
        }
    };
    for source in sources() {
        note(&source.text, &top(&source.path));
    }
    for outside in OUTSIDE {
        for source in rust_files(outside) {
            note(&source.text, &format!("../{outside}"));
        }
    }
    users
}

struct Item<'a> {
    at: usize,
    name: &'a str,
    /// From the name to where the body begins, or the end of what has no body. Enums and traits
    /// whole: what they hold is as public as they are.
    declaration: &'a str,
}

/// What is declared `pub`, without qualification.
fn public_items(code: &str) -> Vec<Item<'_>> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let rest = &code[at + word.len()..];
        if word != "pub" || rest.starts_with('(') {
            continue;
        }
        let mut after = words(rest);
        let Some((mut start, mut first)) = after.next() else {
            continue;
        };
        let mut kind = "";
        while KEYWORDS.contains(&first) || ["async", "unsafe", "mut"].contains(&first) {
            if KEYWORDS.contains(&first) {
                kind = first;
            }
            (start, first) = after.next().expect("a declaration has a name");
        }
        let declaration = &rest[start..];
        let is_field = kind.is_empty() && declaration[first.len()..].trim_start().starts_with(':');
        // `pub use` names things, and a field of a tuple is only a type.
        if first == "use" || (kind.is_empty() && !is_field) {
            continue;
        }
        found.push(Item {
            at,
            name: first,
            declaration: &declaration[..declaration_length(kind, declaration)],
        });
    }
    found
}

/// How long the declaration is that begins `text`.
fn declaration_length(kind: &str, text: &str) -> usize {
    let mut depth = 0;
    let mut last = ' ';
    for (index, character) in text.char_indices() {
        let is_end = match kind {
            "enum" | "trait" => character == '}' && depth == 1,
            "" => matches!(character, ',' | '}') && depth == 0,
            _ => matches!(character, '{' | ';') && depth == 0,
        };
        if is_end {
            return index;
        }
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' => depth += 1,
            '}' => depth -= 1,
            '<' if kind.is_empty() => depth += 1,
            '>' if kind.is_empty() && last != '-' => depth -= 1,
            _ => {}
        }
        last = character;
    }
    text.len()
}

/// The rules themselves: a rule that sees nothing holds nobody.
mod rules {
    use super::*;

    #[test]
    fn every_kind_of_public_item_is_seen_with_what_it_is_declared_with() {
        for (code, name, declaration) in [
            (
                "pub fn f(a: [u8; 4]) -> Answer { body }",
                "f",
                "f(a: [u8; 4]) -> Answer ",
            ),
            ("pub const fn g() -> B { body }", "g", "g() -> B "),
            (
                "pub const LIMIT: usize = MAX;",
                "LIMIT",
                "LIMIT: usize = MAX",
            ),
            (
                "struct S { pub map: HashMap<K, fn(V) -> W>, inner: T }",
                "map",
                "map: HashMap<K, fn(V) -> W>",
            ),
            (
                "pub enum E { One { of: A }, Two(B) }",
                "E",
                "E { One { of: A }, Two(B) ",
            ),
            ("pub struct P<T>(T);", "P", "P<T>(T)"),
        ] {
            let items = public_items(code);
            assert_eq!(items.len(), 1, "{code}");
            assert_eq!((items[0].name, items[0].declaration), (name, declaration));
        }
    }

    #[test]
    fn what_is_not_public_is_let_alone() {
        for code in [
            "pub(crate) fn f() {}",
            "pub(super) struct S;",
            "pub use self::a::B;",
            "struct T(pub u32);",
            "fn f() {}",
        ] {
            assert!(public_items(code).is_empty(), "{code}");
        }
    }
}
