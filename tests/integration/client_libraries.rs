//! The client libraries in `clients/`, behind a proxy that cuts their connections at any byte,
//! without it, and by TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Gateway;
use crate::common::certificates::Authority;
use crate::common::cutting_proxy::CuttingProxy;
use crate::common::random::Random;

/// A script of `tests/clients`.
fn script(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    tests.join(name)
}

fn node(name: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(script(name))
        .env("NODE_PATH", crate::node::packages("ws", "8.18.3"));
    node
}

fn python(name: &str) -> Command {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    let mut python = Command::new("python3");
    python
        .arg(script(name))
        .env("PYTHONPATH", library)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Runs it to its end, which says that all went well.
fn passes(mut program: Command) {
    let output = program.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{said}{errors}");
    assert!(output.status.success() && said.ends_with("done\n"));
}

/// Runs it behind connections that break, and asserts that they did.
fn passes_behind_cuts(mut program: Command) {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let proxy = CuttingProxy::start(gateway.web_address(), Random::seed(), 200, 16_000);
    program.arg(format!("ws://{}/ws", proxy.address()));
    passes(program);
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() >= 5);
}

/// Runs it by TLS, with an authority of our own.
fn passes_by_tls(mut program: Command) {
    let authority = Authority::new();
    authority.sign("chat", "127.0.0.1");
    let gateway = Gateway::start_with_web(|config| {
        authority.secure("chat", config);
        config.set("web", "tls", "required");
    });
    program
        .arg(format!("wss://{}/ws", gateway.web_address()))
        .env("NODE_EXTRA_CA_CERTS", authority.path("ca.pem"))
        .env("SSL_CERT_FILE", authority.path("ca.pem"));
    passes(program);
}

#[test]
fn the_javascript_library_loses_nothing_and_handles_nothing_twice() {
    passes_behind_cuts(node("chat.mjs"));
}

#[test]
fn the_python_library_loses_nothing_and_handles_nothing_twice() {
    passes_behind_cuts(python("chat.py"));
}

#[test]
fn a_javascript_client_ends_where_it_should_and_comes_back_where_it_should() {
    passes_by_tls(node("ends.mjs"));
}

#[test]
fn a_python_client_ends_where_it_should_and_comes_back_where_it_should() {
    passes_by_tls(python("ends.py"));
}
