//! The example, running, and connections to it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use im_gateway::{
    proto::{self, Code, ReplyHeader, ReplyStatus},
    rpc::wire::mprpc::{self, CallHead, Parsed},
};
use prost::Message;

/// A call that hashes a password takes some 0.2 s; a busy machine takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const REPLY_MAX: usize = 1 << 20;

/// The folder with the package `protobuf`, to be put on Python's path.
fn python_packages() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| crate::python::packages("protobuf", "protobuf>=4.22,<8", "google/protobuf"))
}

/// The example, running.
pub struct Service {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it has written to standard error.
    errors: fs::File,
}

impl Service {
    pub fn start() -> Self {
        Self::with_arguments(&[])
    }

    pub fn with_arguments(arguments: &[&str]) -> Self {
        Self::listening_on("127.0.0.1:0".parse().expect("an address"), arguments)
    }

    pub fn listening_on(address: SocketAddr, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/user_service.py");
        let errors = tempfile::tempfile().expect("a file");
        let mut process = Command::new("python3")
            .arg("-B")
            .arg(script)
            .args(["--listen", &address.to_string()])
            .args(arguments)
            .env("PYTHONPATH", python_packages())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().expect("a file"))
            .spawn()
            .expect("python3 starts");
        let output = process.stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("a line of output");
        let address = line
            .trim_end()
            .strip_prefix("UserService listens on ")
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("not an address: {line:?}"));
        Self {
            process,
            address,
            errors,
        }
    }

    pub fn connect(&self, form: Form) -> Connection {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        Connection {
            stream,
            form,
            last_id: 0,
            unread: Vec::new(),
        }
    }

    /// What it has complained of.
    pub fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.errors.rewind().expect("a file");
        self.errors.read_to_string(&mut text).expect("UTF-8");
        text
    }

    /// Sends SIGTERM and waits: the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)
            .expect("the service is alive");
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it did not stop");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", self.complaints());
        }
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The form in which replies are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Classic,
    WithIds,
}

pub const FORMS: [Form; 2] = [Form::Classic, Form::WithIds];

pub struct Connection {
    pub stream: TcpStream,
    form: Form,
    last_id: u64,
    unread: Vec<u8>,
}

/// The name of the method that a request belongs to.
pub trait Call: Message {
    const SERVICE: &'static str = "UserService";
    const METHOD: &'static str;
    type Response: Message + Default;
}

macro_rules! calls {
    ($($request:ident -> $response:ident = $method:literal;)*) => {
        $(impl Call for proto::$request {
            const METHOD: &'static str = $method;
            type Response = proto::$response;
        })*
    };
}

calls! {
    RegisterRequest -> RegisterResponse = "Register";
    LoginRequest -> LoginResponse = "Login";
    LogoutRequest -> LogoutResponse = "Logout";
    AddFriendRequest -> AddFriendResponse = "AddFriend";
    RemoveFriendRequest -> RemoveFriendResponse = "RemoveFriend";
    GetFriendsRequest -> GetFriendsResponse = "GetFriends";
    GetProfileRequest -> GetProfileResponse = "GetProfile";
    SearchRequest -> SearchResponse = "Search";
}

impl Call for proto::PingRequest {
    const SERVICE: &'static str = "HealthService";
    const METHOD: &'static str = "Ping";
    type Response = proto::PingResponse;
}

impl Connection {
    /// A call as bytes; with an id of its own where replies have them.
    pub fn frame(&mut self, service: &str, method: &str, args: &impl Message) -> Vec<u8> {
        if self.form == Form::WithIds {
            self.last_id += 1;
        }
        let head = CallHead {
            service,
            method,
            call_id: self.last_id,
            timeout_ms: 3000,
        };
        let mut bytes = Vec::new();
        mprpc::write_call(head, args, &mut bytes);
        bytes
    }

    pub fn frame_of<C: Call>(&mut self, request: &C) -> Vec<u8> {
        self.frame(C::SERVICE, C::METHOD, request)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    pub fn ask<C: Call>(&mut self, request: C) -> C::Response {
        let frame = self.frame_of(&request);
        self.send(&frame);
        match self.form {
            Form::Classic => self.classic_reply(),
            Form::WithIds => {
                let (header, response) = self.reply_with_id();
                assert_eq!(header.call_id, self.last_id);
                assert_eq!(header.status(), ReplyStatus::ReplyOk);
                response
            }
        }
    }

    pub fn classic_reply<R: Message + Default>(&mut self) -> R {
        self.next(|bytes| {
            let parsed = mprpc::read_classic_reply(bytes, REPLY_MAX)?;
            Ok(parsed.map(|(message, taken)| (decode(message), taken)))
        })
    }

    pub fn reply_with_id<R: Message + Default>(&mut self) -> (ReplyHeader, R) {
        self.next(|bytes| {
            let parsed = mprpc::read_reply(bytes, REPLY_MAX)?;
            Ok(parsed.map(|(reply, taken)| ((reply.header, decode(reply.body)), taken)))
        })
    }

    pub fn next<T>(&mut self, read: impl Fn(&[u8]) -> Parsed<T>) -> T {
        loop {
            if let Some((frame, taken)) = read(&self.unread).expect("a frame") {
                self.unread.drain(..taken);
                return frame;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).expect("a reply in time");
            assert_ne!(count, 0, "it closed the connection");
            self.unread.extend_from_slice(&buffer[..count]);
        }
    }

    /// Waits until the service closes the connection, which it does without another byte.
    pub fn expect_close(&mut self) {
        assert!(self.unread.is_empty());
        let count = self.stream.read(&mut [0; 1]);
        // Unread input makes the kernel reset the connection.
        let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(
            matches!(&count, Ok(0)) || count.as_ref().is_err_and(is_reset),
            "{count:?}"
        );
    }

    pub fn register(&mut self, name: &str, password: &str) -> (Code, i64) {
        let response = self.ask(proto::RegisterRequest {
            username: name.into(),
            password: password.into(),
            ..Default::default()
        });
        (code(response.result), response.user_id)
    }

    pub fn login(&mut self, name: &str, password: &str) -> (Code, i64) {
        let response = self.ask(proto::LoginRequest {
            username: name.into(),
            password: password.into(),
            ..Default::default()
        });
        (code(response.result), response.user_id)
    }
}

pub fn decode<R: Message + Default>(bytes: &[u8]) -> R {
    R::decode(bytes).expect("a response that parses")
}

/// Also sees to it that there is a result: without one a gateway takes the answer for a broken one.
pub fn code(result: Option<proto::Result>) -> Code {
    result.expect("a result").code()
}
