//! Holds the sources to the rules of the codebase: pure modules know no socket, clock, thread or
//! runtime; `unsafe` has one home; every file says what it is and stays readable in one sitting;
//! folders are layers (`layout/layers.rs`) that show no more than others use
//! (`layout/visibility.rs`).
//!
//! Reads text, not syntax trees: comments and literals are blanked first, then words are looked
//! for.

#[path = "layout/functions.rs"]
mod functions;
#[path = "layout/layers.rs"]
mod layers;
#[path = "layout/map.rs"]
mod map;
#[path = "layout/source.rs"]
mod source;
#[path = "layout/visibility.rs"]
mod visibility;
#[path = "layout/width.rs"]
mod width;

use std::{fmt::Write, path::Path};

use self::source::{
    blank_comments_and_literals, blank_tests, numbered, product_sources, sources, sources_root,
    words,
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
    "bus/redis/resp.rs",
    "bus/redis/subscriber.rs",
    "bus/redis/publisher/packing.rs",
    "rpc/client",
    "rpc/server/connection.rs",
    "rpc/server/places.rs",
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

/// The only files that may name the executor: one starts it, the other starts its tasks. A core
/// blocks its thread when none of its tasks is ready, and then nothing in the executor's ring is
/// looked at.
const EXECUTOR_HOMES: [&str; 2] = ["app/cores.rs", "worker/tasks.rs"];

const LINES_MAX: usize = 600;

#[test]
fn pure_modules_name_no_runtime_socket_clock_thread_or_random_source() {
    let mut offences = String::new();
    for place in PURE {
        assert!(
            sources_root().join(place).exists(),
            "src/{place} is gone: say here where it went"
        );
    }
    for source in product_sources() {
        if PURE.iter().any(|place| source.path.starts_with(place)) {
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
    let offences = namings("unsafe", &[UNSAFE_HOME]);
    assert!(
        offences.is_empty(),
        "unsafe code lives in src/{UNSAFE_HOME} only:\n{offences}"
    );
}

#[test]
fn whatever_can_wake_a_core_is_in_its_epoll_set_or_in_its_timers() {
    let offences = namings("glommio", &EXECUTOR_HOMES);
    assert!(
        offences.is_empty(),
        "the executor's timers, sockets and tasks are unknown to the loop that waits:\n{offences}"
    );
}

/// Where code names `wanted` outside its `homes`.
fn namings(wanted: &str, homes: &[&str]) -> String {
    let mut offences = String::new();
    for source in sources() {
        if homes.iter().any(|home| source.path == Path::new(home)) {
            continue;
        }
        for (line, text) in numbered(&blank_comments_and_literals(&source.text)) {
            if words(text).any(|(_, word)| word == wanted) {
                let _ = writeln!(offences, "{}:{line}: {wanted}", source.shown());
            }
        }
    }
    offences
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
}
