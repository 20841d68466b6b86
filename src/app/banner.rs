//! What a newcomer sees first.

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    thread,
};

/// The facts in it.
pub(super) struct Banner {
    pub(super) line_address: SocketAddr,
    pub(super) ops_address: Option<SocketAddr>,
    /// Where messages are kept, or who keeps them.
    pub(super) data: String,
    pub(super) workers: usize,
}

impl Banner {
    pub(super) fn print(&self) {
        let operations = operations(self.ops_address);
        let text = format!(
            "im-gateway {version}\n\
             \x20 line protocol   {line}\n\
             \x20 operations      {operations}\n\
             \x20 data            {data}\n\
             \x20 workers         {workers}\n\
             {hint}\n",
            version = env!("CARGO_PKG_VERSION"),
            line = self.line_address,
            data = self.data,
            workers = self.workers,
            // A service manager's log needs no lesson.
            hint = if std::io::stdout().is_terminal() {
                self.hint()
            } else {
                String::new()
            },
        );
        print(text);
    }

    /// What a person may do first.
    fn hint(&self) -> String {
        format!(
            "\n\
             Try it:  nc {host} {port}   and type\n\
             \x20 register:alice:wonderland\n\
             \x20 whoami\n\
             \x20 chat:1:hello\n\
             \x20 help\n",
            host = self.line_address.ip(),
            port = self.line_address.port(),
        )
    }
}

/// Where operators find what, or that they find nothing.
pub(super) fn operations(address: Option<SocketAddr>) -> String {
    address.map_or_else(
        || "off".to_owned(),
        |address| format!("http://{address}  (/health /livez /readyz /metrics)"),
    )
}

/// Prints the whole banner, on a thread of its own: a closed standard output is no reason not to
/// serve, and neither is one that nobody reads.
pub(super) fn print(text: String) {
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
