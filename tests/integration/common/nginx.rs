//! nginx in front of gateways: one port whose connections it passes on, as an operator would set it
//! up.
//!
//! Runs as whoever runs the tests, with every path below a directory of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{DEADLINE, POLL_INTERVAL};

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What nginx does at its two addresses for these gateways, as it is written.
type Configuration = fn([SocketAddr; 2], &[SocketAddr]) -> String;

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    directory: TempDir,
    /// Where it passes connections on, and where requests of HTTP.
    addresses: [SocketAddr; 2],
    configuration: Configuration,
    child: Child,
}

impl Nginx {
    /// Starts one before these gateways and waits until it takes connections.
    pub fn start(gateways: &[SocketAddr]) -> Self {
        Self::start_as(gateways, configuration)
    }

    /// The same with the configuration that is shipped: it says for whom it connects.
    pub fn start_with_addresses(gateways: &[SocketAddr]) -> Self {
        Self::start_as(gateways, shipped_configuration)
    }

    fn start_as(gateways: &[SocketAddr], configuration: Configuration) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        // Both are held until both are known.
        let free = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let free = free.map(|listener| listener.expect("a free port"));
        let addresses = free.map(|listener| listener.local_addr().expect("its address"));
        write_configuration(directory.path(), &configuration(addresses, gateways));
        let child = spawn(directory.path());
        let mut nginx = Self {
            directory,
            addresses,
            configuration,
            child,
        };
        nginx.wait_until_it_listens();
        nginx
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where clients of HTTP connect, with the configuration that is shipped.
    pub fn web_address(&self) -> SocketAddr {
        self.addresses[1]
    }

    /// Passes new connections on to these gateways from now on; those there are stay where they
    /// are.
    pub fn set_gateways(&self, gateways: &[SocketAddr]) {
        let text = (self.configuration)(self.addresses, gateways);
        write_configuration(self.directory.path(), &text);
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("its own child");
    }

    fn wait_until_it_listens(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            let ended = self.child.try_wait().expect("wait");
            assert!(
                ended.is_none() && start.elapsed() < DEADLINE,
                "nginx does not listen ({ended:?}): {}",
                self.log()
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nginx on {:?}\n{}", self.addresses, self.log());
        }
        // The master ends its workers on this signal, and would leave them behind on SIGKILL.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    let log = fs::File::create(directory.join("output")).expect("a log file");
    Command::new(program())
        .arg("-p")
        .arg(directory)
        .arg("-e")
        .arg(directory.join("error.log"))
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle of the log"))
        .stderr(log)
        .spawn()
        .expect("nginx starts")
}

/// Debian keeps it where a normal user's path does not look.
fn program() -> &'static str {
    let usual = "/usr/sbin/nginx";
    if Path::new(usual).exists() {
        usual
    } else {
        "nginx"
    }
}

fn servers(gateways: &[SocketAddr]) -> String {
    let gateways = gateways.iter();
    gateways
        .map(|gateway| format!("        server {gateway} max_fails=1 fail_timeout=1s;\n"))
        .collect()
}

fn configuration([address, _]: [SocketAddr; 2], gateways: &[SocketAddr]) -> String {
    format!(
        "worker_processes 1;\n\
         events {{ worker_connections 1024; }}\n\
         stream {{\n    \
             upstream gateways {{\n{servers}    }}\n    \
             server {{\n        \
                 listen {address};\n        \
                 proxy_pass gateways;\n        \
                 proxy_connect_timeout 1s;\n    \
             }}\n\
         }}\n",
        servers = servers(gateways)
    )
}

/// `conf/nginx.conf` with these addresses in the place of its own.
fn shipped_configuration(addresses: [SocketAddr; 2], gateways: &[SocketAddr]) -> String {
    let mut text = include_str!("../../../conf/nginx.conf").to_owned();
    let server = "        server 127.0.0.1:6001 max_fails=1 fail_timeout=2s;\n";
    let web_server = server.replace("6001", "8001");
    let [lines, web] = addresses;
    for (shipped, own) in [
        ("load_module modules/ngx_stream_module.so;\n", String::new()),
        ("worker_processes auto;", "worker_processes 1;".to_owned()),
        (
            "worker_connections 16384;",
            "worker_connections 1024;".to_owned(),
        ),
        (server, servers(gateways)),
        (&web_server, servers(gateways)),
        ("listen 6000;", format!("listen {lines};")),
        ("listen 8000;", format!("listen {web};")),
    ] {
        assert!(text.contains(shipped), "conf/nginx.conf has no {shipped:?}");
        text = text.replacen(shipped, &own, 1);
    }
    text
}

/// Writes the file, with what a test's own nginx needs to run in `directory`.
fn write_configuration(directory: &Path, text: &str) {
    // Without the module's file the module is built in.
    let module = match Path::new(STREAM_MODULE).exists() {
        true => format!("load_module {STREAM_MODULE};\n"),
        false => String::new(),
    };
    let shown = directory.display();
    let http = format!(
        "http {{\n    access_log off;\n    client_body_temp_path {shown}/body;\n    \
             proxy_temp_path {shown}/proxy;\n    fastcgi_temp_path {shown}/fastcgi;\n    \
             uwsgi_temp_path {shown}/uwsgi;\n    scgi_temp_path {shown}/scgi;\n"
    );
    let text = text.replace("http {\n", &http);
    let text = format!(
        "{module}daemon off;\npid {shown}/nginx.pid;\nerror_log {shown}/error.log warn;\n{text}"
    );
    fs::write(directory.join("nginx.conf"), text).expect("write nginx's configuration");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::Gateway;

    #[test]
    fn connections_are_passed_on_and_spread() {
        let gateways = [Gateway::start(|_| {}), Gateway::start(|_| {})];
        let nginx = Nginx::start(&gateways.each_ref().map(Gateway::address));
        let mut clients: Vec<_> = (0..4)
            .map(|_| crate::common::Client::connect(nginx.address()))
            .collect();
        for client in &mut clients {
            assert!(client.line().starts_with("+OK welcome"));
            assert_eq!(client.ask("ping"), "+OK pong");
        }
        for gateway in &gateways {
            assert!(gateway.metric("connections", &[]) >= 1.0);
        }
    }
}
