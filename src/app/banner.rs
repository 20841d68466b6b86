//! What a newcomer sees first.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    thread,
};

use crate::contract::methods::Service;

/// Its title, a line for each fact, and where a person may connect to.
pub(super) struct Banner {
    title: &'static str,
    facts: Vec<(&'static str, String)>,
    line_address: Option<SocketAddr>,
}

impl Banner {
    /// That of a gateway with these listeners, the one for lines first. `data`: where messages are
    /// kept, or who keeps them.
    pub(super) fn of_gateway(
        listeners: &[(String, SocketAddr)],
        ops_address: Option<SocketAddr>,
        data: String,
        workers: usize,
    ) -> Self {
        let mut facts: Vec<_> = listeners
            .iter()
            .map(|(name, address)| match name.as_str() {
                "line" => ("line protocol", address.to_string()),
                "web" => ("web", address.to_string()),
                name => ("listener", format!("{address}  ({name})")),
            })
            .collect();
        facts.extend([
            ("operations", operations(ops_address)),
            ("data", data),
            ("workers", workers.to_string()),
        ]);
        Self {
            title: "",
            facts,
            line_address: listeners.first().map(|(_, address)| *address),
        }
    }

    /// That of a backend. `data`: where the database is, and what is in it.
    pub(super) fn of_backend(
        calls_address: SocketAddr,
        ops_address: Option<SocketAddr>,
        data: String,
        services: &[Service],
    ) -> Self {
        let services: Vec<&str> = services.iter().map(|service| service.word()).collect();
        Self {
            title: " backend",
            facts: vec![
                ("calls", calls_address.to_string()),
                ("operations", operations(ops_address)),
                ("data", data),
                ("services", services.join(" ")),
            ],
            line_address: None,
        }
    }

    /// Shows it, with a hint where a person sits at the terminal: a service manager's log needs no
    /// lesson.
    pub(super) fn print(&self) {
        print(self.text(std::io::stdout().is_terminal()));
    }

    fn text(&self, with_hint: bool) -> String {
        let mut text = format!("im-gateway {}{}\n", env!("CARGO_PKG_VERSION"), self.title);
        for (name, fact) in &self.facts {
            text.push_str(&format!("  {name:<16}{fact}\n"));
        }
        text.push('\n');
        if let Some(address) = self.line_address.filter(|_| with_hint) {
            text.push_str(&hint(address));
        }
        text
    }
}

/// What a person may do first.
fn hint(address: SocketAddr) -> String {
    format!(
        "Try it:  nc {host} {port}   and type\n\
         \x20 register:alice:wonderland\n\
         \x20 whoami\n\
         \x20 chat:1:hello\n\
         \x20 help\n\n",
        host = address.ip(),
        port = address.port(),
    )
}

/// Where operators find what, or that they find nothing.
fn operations(address: Option<SocketAddr>) -> String {
    address.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address}  (/health /livez /readyz /metrics)"),
    )
}

/// Prints the whole banner, on a thread of its own: a closed standard output is no reason not to
/// serve, and neither is one that nobody reads.
fn print(text: String) {
    let write = move || {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    if let Err(error) = thread::Builder::new()
        .name("banner".to_owned())
        .spawn(write)
    {
        log::warn!("cannot print the banner: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banner_has_a_line_for_each_fact_and_a_hint_for_a_person_at_a_gateway() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let listeners = [("line".to_owned(), address), ("more".to_owned(), address)];
        let gateway = Banner::of_gateway(&listeners, None, "/data".to_owned(), 2);
        let version = env!("CARGO_PKG_VERSION");
        let facts = format!(
            "im-gateway {version}\n  line protocol   127.0.0.1:7000\n  listener        \
             127.0.0.1:7000  (more)\n  operations      off\n  \
             data            /data\n  workers         2\n\n"
        );
        assert_eq!(gateway.text(false), facts);
        let hint = gateway.text(true);
        let hint = hint.strip_prefix(&facts).expect("the same first");
        assert!(hint.starts_with("Try it:  nc 127.0.0.1 7000 "), "{hint}");
        let services = [Service::User, Service::Group];
        let backend = Banner::of_backend(address, Some(address), String::new(), &services);
        assert!(
            backend
                .text(false)
                .contains(" backend\n  calls           127.0.0.1:7000\n")
        );
        assert_eq!(backend.text(true), backend.text(false));
    }
}
