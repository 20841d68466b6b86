//! What the program promises on its command line: commands, messages, exit codes. Runs the real
//! binary.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary in a directory of its own, with no variable that could change its configuration.
struct Gateway {
    directory: tempfile::TempDir,
}

impl Gateway {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.directory.path().join("im.toml");
        std::fs::write(&path, text).expect("the file is written");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.prepare(Command::new(env!("CARGO_BIN_EXE_im-gateway")), arguments)
    }

    /// The binary under `prlimit`, which lowers a limit for it.
    fn limited(&self, limit: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("prlimit");
        command.args([limit, env!("CARGO_BIN_EXE_im-gateway")]);
        self.prepare(command, arguments)
    }

    fn prepare(&self, mut command: Command, arguments: &[&str]) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"IM_GATEWAY__") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .env_remove("STATE_DIRECTORY")
            .env_remove("RUST_LOG")
            .current_dir(self.directory.path());
        command
    }
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program exits")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the messages are UTF-8")
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

#[test]
fn what_default_config_prints_is_a_valid_configuration() {
    let gateway = Gateway::new();
    let printed = output(&mut gateway.command(&["default-config"]));
    assert_eq!(code(&printed), 0);
    let path = gateway.file(&stdout(&printed));
    let checked = output(&mut gateway.command(&["check-config", "-c", path_text(&path)]));
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    assert_eq!(
        stdout(&checked),
        format!("configuration {} is valid\n", path.display())
    );
    assert_eq!(stderr(&checked), "");
}

#[test]
fn the_configuration_for_mpim_is_valid() {
    let gateway = Gateway::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/mpim.toml");
    let checked = output(&mut gateway.command(&["check-config", "-c", path_text(&path)]));
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    assert_eq!(stderr(&checked), "");
}

#[test]
fn check_config_without_a_file_checks_defaults_and_environment() {
    let gateway = Gateway::new();
    assert_eq!(code(&output(&mut gateway.command(&["check-config"]))), 0);
    let mut command = gateway.command(&["check-config"]);
    command.env("IM_GATEWAY__NETWORK__BACKLOG", "0");
    assert_eq!(code(&output(&mut command)), 3);
}

#[test]
fn check_config_tells_all_mistakes_at_once() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nport = \"6000\"\nprot = 1\n[redis]\naddress = 5\n");
    let mut command = gateway.command(&["check-config", "-c", path_text(&path)]);
    command.env("IM_GATEWAY__OPS__LISTN", "x");
    let checked = output(&mut command);
    assert_eq!(code(&checked), 3);
    assert_eq!(stderr(&checked).lines().count(), 4, "{}", stderr(&checked));
    let path = gateway.file("[gateway_service]\nhost = \"x\"\n[network]\nbacklog = 0\n");
    let checked = output(&mut gateway.command(&["check-config", "-c", path_text(&path)]));
    assert_eq!(code(&checked), 3);
    assert_eq!(stderr(&checked).lines().count(), 2, "{}", stderr(&checked));
}

#[test]
fn check_config_looks_at_the_files_that_are_named() {
    let gateway = Gateway::new();
    let secret = gateway.directory.path().join("token.secret");
    let text = format!(
        "[redis]\npassword_file = \"nowhere\"\n[auth]\ntoken_secret_file = \"{}\"\n",
        path_text(&secret)
    );
    std::fs::write(&secret, "c2VjcmV0IGluIGJhc2U2NA==\n").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let path = gateway.file(&text);
    let checked = output(&mut gateway.command(&["check-config", "-c", path_text(&path)]));
    assert_eq!(code(&checked), 3);
    let said = stderr(&checked);
    assert!(said.contains("password in nowhere"), "{said}");
    assert!(said.contains("hexadecimal digits"), "{said}");
    assert!(said.contains("openssl rand -hex 32"), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
}

#[test]
fn a_variable_that_is_nearly_right_is_warned_of() {
    let gateway = Gateway::new();
    let mut command = gateway.command(&["check-config"]);
    command.env("IM_GATEWAY_GATEWAY_SERVICE_PORT", "7000");
    let checked = output(&mut command);
    assert_eq!(code(&checked), 0);
    let said = stdout(&checked);
    assert!(said.contains("IM_GATEWAY__GATEWAY_SERVICE__PORT"), "{said}");
}

#[test]
fn an_unknown_key_is_told_the_nearest_one() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nprot = 7000\n");
    let checked = output(&mut gateway.command(&["check-config", "-c", path_text(&path)]));
    assert_eq!(code(&checked), 3);
    assert_eq!(
        stderr(&checked),
        format!(
            "im-gateway: {} line 2: unknown key prot in [gateway_service], the nearest is port\n",
            path.display()
        )
    );
}

#[test]
fn a_variable_overrides_the_file() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nport = 0\n[ops]\nlisten = ''\n");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("its address").port();
    let mut command = gateway.command(&["doctor", "-c", path_text(&path)]);
    command.env("IM_GATEWAY__GATEWAY_SERVICE__PORT", port.to_string());
    let examined = output(&mut command);
    assert_eq!(code(&examined), 4);
    assert!(
        stdout(&examined).contains(&format!("127.0.0.1:{port}: Address already in use")),
        "{}",
        stdout(&examined)
    );
}

#[test]
fn an_unknown_variable_is_told_the_nearest_one() {
    let gateway = Gateway::new();
    let mut command = gateway.command(&["run"]);
    command.env("IM_GATEWAY__LIMITS__MAX_DEVICE", "3");
    let ran = output(&mut command);
    assert_eq!(code(&ran), 3);
    assert_eq!(
        stderr(&ran),
        "im-gateway: environment variable IM_GATEWAY__LIMITS__MAX_DEVICE: it names no key, \
         the nearest is IM_GATEWAY__LIMITS__MAX_DEVICES\n"
    );
}

#[test]
fn every_command_that_reads_the_configuration_ends_with_3_and_one_line_where_it_is_wrong() {
    let gateway = Gateway::new();
    for text in [
        "[gateway_service]\nport = 'six thousand'\n",
        "[gateway_service]\nhost = 'localhost'\n",
        "[gateway_service]\ngateway_id = 'a#b'\n",
        "[limits]\nlogin_line_bytes = '16KiB'\n",
        "[limits]\nlimit_exempt = ['everyone']\n",
        "[load_balancer]\nalgorithm = 'dice'\n",
        "[network\n",
        "loose = 1\n",
        "\u{1b}[31m = 1\n",
    ] {
        let path = gateway.file(text);
        for command in ["run", "check-config", "doctor"] {
            let ran = output(&mut gateway.command(&[command, "-c", path_text(&path)]));
            assert_eq!(code(&ran), 3, "{command} with {text:?}");
            let message = stderr(&ran);
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(message.contains("im.toml line "), "{message}");
            assert_eq!(stdout(&ran), "");
        }
    }
}

#[test]
fn a_missing_configuration_file_ends_with_3() {
    let gateway = Gateway::new();
    let ran = output(&mut gateway.command(&["-c", "no-such-file.toml"]));
    assert_eq!(code(&ran), 3);
    assert!(
        stderr(&ran).contains("no-such-file.toml"),
        "{}",
        stderr(&ran)
    );
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let gateway = Gateway::new();
    for arguments in [
        &["serve"][..],
        &["--port", "7000"],
        &["run", "-c"],
        &["version", "--xml"],
        &["default-config", "-c", "x"],
    ] {
        let ran = output(&mut gateway.command(arguments));
        assert_eq!(code(&ran), 2, "{arguments:?}");
        assert!(stderr(&ran).starts_with("error: "), "{}", stderr(&ran));
    }
}

#[test]
fn the_version_is_told_to_people_and_to_programs() {
    let gateway = Gateway::new();
    let expected = format!("im-gateway {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in ["version", "-V", "--version"] {
        let told = output(&mut gateway.command(&[arguments]));
        assert_eq!((code(&told), stdout(&told)), (0, expected.clone()));
    }
    let told = output(&mut gateway.command(&["version", "--json"]));
    let value: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn help_names_every_command() {
    let gateway = Gateway::new();
    for argument in ["-h", "--help"] {
        let told = output(&mut gateway.command(&[argument]));
        assert_eq!(code(&told), 0);
        for command in ["run", "check-config", "default-config", "doctor", "version"] {
            assert!(stdout(&told).contains(command), "{}", stdout(&told));
        }
    }
}

#[test]
fn the_doctor_looks_at_everything_the_gateway_needs() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nport = 0\n[ops]\nlisten = '127.0.0.1:0'\n");
    let examined = output(&mut gateway.command(&["doctor", "-c", path_text(&path)]));
    let table = stdout(&examined);
    for what in [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "CPUs",
        "data directory",
        "line port",
        "ops port",
        "backlog",
    ] {
        let line = table
            .lines()
            .find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(what)));
        let line = line.unwrap_or_else(|| panic!("no line for {what} in\n{table}"));
        assert!(
            ["ok", "warn", "FAIL"].contains(&line[..4].trim_end()),
            "{line}"
        );
    }
    let failed = table.lines().any(|line| line.starts_with("FAIL"));
    assert_eq!(code(&examined), if failed { 4 } else { 0 }, "{table}");
    assert!(
        !gateway.directory.path().join("data").exists(),
        "the doctor made a directory"
    );
}

#[test]
fn too_little_locked_memory_ends_with_4_and_the_limit_to_raise() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nport = 0\n[ops]\nlisten = ''\n");
    for command in ["run", "doctor"] {
        let ran = output(
            &mut gateway.limited("--memlock=65536:65536", &[command, "-c", path_text(&path)]),
        );
        assert_eq!(code(&ran), 4, "{command}: {}", stderr(&ran));
        let told = stdout(&ran) + &stderr(&ran);
        assert!(
            told.contains("the limit is 64 KiB, io_uring needs 512 KiB"),
            "{told}"
        );
        assert!(told.contains("LimitMEMLOCK="), "{told}");
    }
}

#[test]
fn a_soft_limit_below_the_hard_one_is_raised() {
    let gateway = Gateway::new();
    let path =
        gateway.file("[gateway_service]\nport = 0\nmax_connections = 100\n[ops]\nlisten = ''\n");
    let examined =
        output(&mut gateway.limited("--nofile=64:4096", &["doctor", "-c", path_text(&path)]));
    let table = stdout(&examined);
    assert!(table.contains("limit 4096, 100 connections"), "{table}");
}

#[test]
fn fewer_open_files_than_connections_lower_the_connections() {
    let gateway = Gateway::new();
    let path = gateway.file("[gateway_service]\nport = 0\n[ops]\nlisten = ''\n");
    let examined =
        output(&mut gateway.limited("--nofile=2048:2048", &["doctor", "-c", path_text(&path)]));
    let table = stdout(&examined);
    assert!(
        table.contains("the limit of 2048 allows 1792 connections"),
        "{table}"
    );
}

#[test]
fn a_data_directory_that_is_a_file_ends_with_4() {
    let gateway = Gateway::new();
    let path =
        gateway.file("[gateway_service]\nport = 0\ndata_dir = './im.toml'\n[ops]\nlisten = ''\n");
    let ran = output(&mut gateway.command(&["run", "-c", path_text(&path)]));
    assert_eq!(code(&ran), 4, "{}", stderr(&ran));
    assert!(
        stderr(&ran).contains("is not a directory"),
        "{}",
        stderr(&ran)
    );
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let gateway = Gateway::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = gateway.command(&["default-config"]);
    command.stdout(writer);
    let printed = output(&mut command);
    assert_eq!((code(&printed), stderr(&printed)), (0, String::new()));
}

#[test]
fn a_token_is_made_and_looked_at_and_none_stands_among_the_arguments() {
    let gateway = Gateway::new();
    let file = gateway.file("[gateway_service]\ndata_dir = \"data\"\n");
    std::fs::create_dir(gateway.directory.path().join("data")).expect("a directory");
    let config = format!("--config={}", file.display());
    let made = output(&mut gateway.command(&["token", "make", &config, "--user", "42"]));
    assert_eq!(code(&made), 0, "{made:?}");
    let token = String::from_utf8(made.stdout).expect("text");
    let look = |token: &str| {
        let mut check = gateway.command(&["token", "check", &config]);
        check.stdin(std::process::Stdio::piped());
        check.stdout(std::process::Stdio::piped());
        let mut check = check.spawn().expect("the program starts");
        let mut input = check.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut input, token.as_bytes()).expect("it is read");
        drop(input);
        check.wait_with_output().expect("it ends")
    };
    let good = look(&token);
    assert_eq!(code(&good), 0, "{good:?}");
    assert!(good.stdout.starts_with(b"good: user 42, "), "{good:?}");
    let bad = look(&token.replace('.', "x."));
    assert_eq!(
        (code(&bad), &bad.stdout[..]),
        (1, &b"not good: the token is not valid\n"[..])
    );
    let nobody = output(&mut gateway.command(&["token", "make", &config, "--user", "0"]));
    assert_eq!(code(&nobody), 2, "{nobody:?}");
}
