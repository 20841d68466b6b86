//! A function fits on a page.

use std::fmt::Write;

use super::source::{blank_comments_and_literals, line_of, rust_files, words};

const FOLDERS: [&str; 3] = ["src", "tests", "benches"];

const LINES_MAX: usize = 70;

#[test]
fn a_function_fits_on_a_page() {
    let mut offences = String::new();
    for folder in FOLDERS {
        for source in rust_files(folder) {
            let code = blank_comments_and_literals(&source.text);
            for Function { name, at, lines } in functions(&code) {
                if lines > LINES_MAX {
                    let (path, line) = (source.path.display(), line_of(&code, at));
                    let _ = writeln!(
                        offences,
                        "{folder}/{path}:{line}: {name}, {lines} lines of at most {LINES_MAX}"
                    );
                }
            }
        }
    }
    assert!(offences.is_empty(), "functions to be divided:\n{offences}");
}

struct Function<'a> {
    name: &'a str,
    /// Where it begins.
    at: usize,
    lines: usize,
}

/// The functions with a body in `code`, which has its comments and literals blanked.
fn functions(code: &str) -> impl Iterator<Item = Function<'_>> {
    words(code)
        .filter(|(_, word)| *word == "fn")
        .filter_map(|(at, word)| {
            let after = &code[at + word.len()..];
            // `fn(u8)` is a type.
            if !after.starts_with(char::is_whitespace) {
                return None;
            }
            let (_, name) = words(after).next()?;
            let lines = after[..body_end(after)?].matches('\n').count() + 1;
            Some(Function { name, at, lines })
        })
}

/// Where the body ends of the function whose name begins `text`; none where it has no body.
fn body_end(text: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}

mod rules {
    use super::*;

    #[test]
    fn a_function_is_measured_from_its_name_to_its_last_brace() {
        let code = "trait T { fn none(&self, pair: [u8; 2]); }\ntype F = fn(u8);\n\
                    fn outer<T>(\n    x: T,\n) -> [u8; 2]\nwhere\n    T: Copy,\n{\n\
                    if true {\n}\nfn inner() {\n}\n}\n";
        let found: Vec<_> = functions(code)
            .map(|function| (function.name, line_of(code, function.at), function.lines))
            .collect();
        assert_eq!(found, [("outer", 3, 11), ("inner", 11, 2)]);
    }
}
