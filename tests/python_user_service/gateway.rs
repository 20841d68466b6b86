//! The example behind a real gateway: its users talk, with Presence, Message and Group of
//! `im-gateway backend`.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    redis_server::RedisServer,
    service::{PATIENCE, Service},
};

/// `im-gateway` or `im-gateway backend`, and where it listens. Killed by its process id when
/// dropped.
struct Program {
    process: Child,
    address: SocketAddr,
}

impl Program {
    /// Starts it with the configuration `toml`; `word` stands before its address in what it prints.
    fn start(command: &str, toml: &str, folder: &Path, word: &str) -> Self {
        let path = folder.join(format!("{command}.toml"));
        std::fs::write(&path, toml).expect("a configuration");
        let mut program = Command::new(env!("CARGO_BIN_EXE_im-gateway"));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"IM_GATEWAY__") {
                program.env_remove(name);
            }
        }
        let mut process = program
            .args([command, "-c"])
            .arg(&path)
            .env_remove("STATE_DIRECTORY")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let address = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.trim().strip_prefix(word)?.trim().parse().ok());
        match address {
            Some(address) => Self { process, address },
            None => panic!("{command} ended: {:?}", process.wait()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One client of the gateway.
struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut client = Self { stream, lines };
        assert!(client.line().starts_with("+OK welcome"));
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.stream
            .write_all(format!("{command}\n").as_bytes())
            .expect("it reads");
        self.line()
    }

    /// Says it until the answer is not that the service is away.
    fn ask_patiently(&mut self, command: &str) -> String {
        let started = Instant::now();
        loop {
            let reply = self.ask(command);
            if !reply.starts_with("-ERR BACKEND_UNAVAILABLE") || started.elapsed() > PATIENCE {
                return reply;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn users_of_the_example_talk_through_a_gateway() {
    for wire in ["mprpc-id", "mprpc"] {
        talk(wire);
    }
}

fn talk(wire: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = RedisServer::start();
    let users = folder.path().join("users.db");
    let arguments = ["--data", users.to_str().expect("UTF-8")];
    let mut service = Service::with_arguments(&arguments);
    let backend = start_backend(folder.path(), &redis);
    let gateway = start_gateway(folder.path(), &redis, (wire, service.address), &backend);
    let mut alice = Client::connect(gateway.address);
    let mut bob = Client::connect(gateway.address);

    they_register_and_chat(&mut alice, &mut bob);
    broadcast_as_documented(&redis);
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.line(), "NOTICE kind=broadcast text=hello world");
    }
    they_are_friends_and_found(&mut alice);
    let mut third = Client::connect(gateway.address);
    others_are_refused(&mut third);
    assert_eq!(bob.ask("quit"), "+OK bye");

    // Where it stops, those who are logged in go on; it comes back on the same port, and so do
    // logins.
    let address = service.address;
    assert_eq!(service.terminate(), Some(0));
    let reply = third.ask("login:bob:looking-glass");
    assert!(reply.starts_with("-ERR BACKEND_UNAVAILABLE "), "{reply}");
    let reply = alice.ask("chat:2:are you there?");
    assert!(reply.starts_with("+OK msg_id="), "{reply}");
    let _service = Service::listening_on(address, &arguments);
    let reply = third.ask_patiently("login:bob:looking-glass");
    assert!(reply.starts_with("+OK uid=2 "), "{reply}");
    let pulled = third.ask("pull");
    assert!(pulled.ends_with(" text=are you there?"), "{pulled}");
    assert_eq!(third.line(), "+OK pull_done count=1 more=0");
}

/// Presence, Message and Group of `im-gateway backend`.
fn start_backend(folder: &Path, redis: &RedisServer) -> Program {
    let toml = format!(
        "[ops]\nlisten = ''\n[redis]\naddress = '{}'\n\
         [gateway_service]\ndata_dir = '{}'\n[backend]\nlisten = '127.0.0.1:0'\n\
         services = ['presence', 'message', 'group']\nforeign_users = true\n",
        redis.address(),
        folder.join("data").display()
    );
    Program::start("backend", &toml, folder, "calls")
}

/// A gateway that asks the example, over its wire and at its address, about users.
fn start_gateway(
    folder: &Path,
    redis: &RedisServer,
    (wire, users): (&str, SocketAddr),
    backend: &Program,
) -> Program {
    let toml = format!(
        "[ops]\nlisten = ''\n[redis]\naddress = '{}'\n\
         [gateway_service]\nport = 0\nthread_count = 1\nfirst_worker = 0\ndata_dir = '{}'\n\
         [load_balancer]\nretry_interval = '20ms'\n[rpc]\nrpc_timeout = '60s'\n\
         [service_discovery]\nstatic_instances = ['user {wire} {users}', \
         'presence mprpc-id {other}', 'message mprpc-id {other}', 'group mprpc-id {other}']\n",
        redis.address(),
        folder.join("gateway").display(),
        other = backend.address,
    );
    Program::start("run", &toml, folder, "line protocol")
}

fn they_register_and_chat(alice: &mut Client, bob: &mut Client) {
    let reply = alice.ask_patiently("register:alice:wonderland");
    assert!(reply.starts_with("+OK uid=1 "), "{reply}");
    let reply = bob.ask_patiently("register:bob:looking-glass");
    assert!(reply.starts_with("+OK uid=2 "), "{reply}");
    let reply = alice.ask("chat:2:hello bob");
    assert!(reply.starts_with("+OK msg_id="), "{reply}");
    let push = bob.line();
    assert!(
        push.contains(" from=1 ") && push.ends_with(" text=hello bob"),
        "{push}"
    );
}

/// Tells everyone, as docs/backends.md has it.
fn broadcast_as_documented(redis: &RedisServer) {
    let publish = format!(
        r#"redis-cli -p {} PUBLISH im:broadcast "$(printf '\052\013hello world')""#,
        redis.port()
    );
    let published = Command::new("sh").args(["-c", &publish]).output();
    assert!(published.expect("a shell").status.success());
}

fn they_are_friends_and_found(alice: &mut Client) {
    assert_eq!(alice.ask("add_friend:2"), "+OK");
    assert_eq!(alice.ask("friends"), "+OK friends=2");
    assert_eq!(alice.ask("profile:2"), "+OK uid=2 name=bob");
    assert_eq!(alice.ask("search:b"), "+OK users=2:bob");
}

fn others_are_refused(client: &mut Client) {
    for (command, code) in [
        ("register:alice:wonderland", "-ERR USER_EXISTS "),
        ("login:alice:looking-glass", "-ERR AUTH_FAILED "),
        ("login:nobody:looking-glass", "-ERR AUTH_FAILED "),
    ] {
        let reply = client.ask(command);
        assert!(reply.starts_with(code), "{command}: {reply}");
    }
}
