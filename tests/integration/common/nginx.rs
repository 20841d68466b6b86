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

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    directory: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Nginx {
    /// Starts one before these gateways and waits until it takes connections.
    pub fn start(gateways: &[SocketAddr]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port");
        write_configuration(directory.path(), address, gateways);
        let child = spawn(directory.path());
        let mut nginx = Self {
            directory,
            address,
            child,
        };
        nginx.wait_until_it_listens();
        nginx
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes new connections on to these gateways from now on; those there are stay where they
    /// are.
    pub fn set_gateways(&self, gateways: &[SocketAddr]) {
        write_configuration(self.directory.path(), self.address, gateways);
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("its own child");
    }

    fn wait_until_it_listens(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
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
            eprintln!("--- nginx on {}\n{}", self.address, self.log());
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

fn write_configuration(directory: &Path, address: SocketAddr, gateways: &[SocketAddr]) {
    // Without the module's file the module is built in.
    let module = match Path::new(STREAM_MODULE).exists() {
        true => format!("load_module {STREAM_MODULE};\n"),
        false => String::new(),
    };
    let servers: String = gateways
        .iter()
        .map(|gateway| format!("        server {gateway} max_fails=1 fail_timeout=1s;\n"))
        .collect();
    let text = format!(
        "{module}\
         daemon off;\n\
         worker_processes 1;\n\
         pid {directory}/nginx.pid;\n\
         error_log {directory}/error.log warn;\n\
         events {{ worker_connections 1024; }}\n\
         stream {{\n    \
             upstream gateways {{\n{servers}    }}\n    \
             server {{\n        \
                 listen {address};\n        \
                 proxy_pass gateways;\n        \
                 proxy_connect_timeout 1s;\n    \
             }}\n\
         }}\n",
        directory = directory.display()
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
