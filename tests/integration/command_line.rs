//! The commands of the binary, its configuration, and what it says when it cannot start.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::common::{Gateway, run_to_exit};

/// One plain message: it names what is wrong and is no trace of a panic.
fn assert_plain(message: &str, names: &str) {
    assert!(
        message.contains(names),
        "{names} is not named in: {message}"
    );
    assert!(!message.contains("panicked at"), "{message}");
    assert!(!message.contains("RUST_BACKTRACE"), "{message}");
    assert!(message.lines().count() <= 8, "one message: {message}");
}

#[test]
fn a_taken_port_is_one_message_and_exit_code_4() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = holder.local_addr().expect("address").port();
    let finished = Gateway::start_and_fail(|config| {
        config.set("gateway_service", "port", i64::from(port));
    });
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert_plain(&finished.stderr, &port.to_string());
}

#[test]
fn the_port_of_another_gateway_is_taken_too() {
    let first = Gateway::start_on_two_cores();
    let port = first.address().port();
    let finished = Gateway::start_and_fail(|config| {
        config.set("gateway_service", "port", i64::from(port));
    });
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert_plain(&finished.stderr, &port.to_string());
    for _ in 0..10 {
        assert_eq!(first.client().ask("ping"), "+OK pong");
    }
}

#[test]
fn a_taken_operations_port_is_one_message_and_exit_code_4() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = holder.local_addr().expect("address").to_string();
    let finished = Gateway::start_and_fail(|config| {
        config.set("ops", "listen", address.clone());
    });
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert_plain(&finished.stderr, &address);
}

#[test]
fn an_unknown_key_names_the_nearest_known_one_and_exits_with_3() {
    let finished = Gateway::start_and_fail(|config| {
        config.limit("max_line_byte", 1000);
    });
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert_plain(&finished.stderr, "max_line_bytes");
    let finished = Gateway::start_and_fail(|config| {
        config.set("gateway_servise", "port", 1);
    });
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert_plain(&finished.stderr, "gateway_service");
}

#[test]
fn a_bad_value_names_its_key_and_exits_with_3() {
    for (section, key, value) in [
        ("limits", "login_timeout", toml::Value::from("soon")),
        ("limits", "max_devices", toml::Value::from(-1)),
        (
            "limits",
            "outbound_queue_bytes",
            toml::Value::from("1 parsec"),
        ),
        ("gateway_service", "port", toml::Value::from(70000)),
        ("load_balancer", "algorithm", toml::Value::from("magic")),
        ("ops", "listen", toml::Value::from("nowhere")),
    ] {
        let finished = Gateway::start_and_fail(|config| {
            config.set(section, key, value);
        });
        assert_eq!(finished.code, Some(3), "{key}: {finished:?}");
        assert_plain(&finished.stderr, key);
    }
}

#[test]
fn a_file_that_is_not_there_or_no_toml_is_one_message() {
    let finished = run_to_exit(&["run", "-c", "/nonexistent/gateway.toml"], &[]);
    assert!(matches!(finished.code, Some(3 | 4)), "{finished:?}");
    assert_plain(&finished.stderr, "/nonexistent/gateway.toml");
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "[gateway_service\nport = ").expect("write");
    let finished = run_to_exit(&["check-config", "-c", &path.display().to_string()], &[]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_too() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, "[limits]\nmax_devices = 2\n").expect("write");
    let file = path.display().to_string();
    let arguments = ["check-config", "-c", file.as_str()];
    for (name, value, code) in [
        ("IM_GATEWAY__LIMITS__MAX_DEVICES", "7", 0),
        ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "7000", 0),
        ("IM_GATEWAY__LIMITS__MAX_DEVICES", "many", 3),
        ("IM_GATEWAY__LIMITS__MAX_DEVICE", "7", 3),
    ] {
        let finished = run_to_exit(&arguments, &[(name, value)]);
        assert_eq!(finished.code, Some(code), "{name}={value}: {finished:?}");
    }
}

#[test]
fn version_help_and_usage_errors_have_their_exit_codes() {
    let version = run_to_exit(&["version"], &[]);
    assert_eq!(version.code, Some(0));
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
    assert_eq!(run_to_exit(&["--help"], &[]).code, Some(0));
    assert_eq!(run_to_exit(&["dance"], &[]).code, Some(2));
    let doctor = run_to_exit(&["doctor"], &[]);
    assert!(matches!(doctor.code, Some(0 | 4)), "{doctor:?}");
    assert!(doctor.stdout.contains("io_uring"), "{doctor:?}");
}

#[test]
fn the_banner_says_where_it_listens() {
    let gateway = Gateway::start(|_| {});
    let banner = gateway.output().0;
    assert!(banner.contains(&gateway.address().to_string()), "{banner}");
    assert!(
        banner.contains(&gateway.http_address().to_string()),
        "{banner}"
    );
}

#[test]
fn a_data_directory_that_cannot_be_made_is_one_message() {
    let finished = Gateway::start_and_fail(|config| {
        config.set("gateway_service", "data_dir", "/proc/nowhere");
    });
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert_plain(&finished.stderr, "/proc/nowhere");
}

#[test]
fn the_banner_says_whether_the_database_is_new_or_how_many_accounts_it_has() {
    let mut gateway = Gateway::start(|_| {});
    gateway.register("alice");
    gateway.register("bob");
    assert!(gateway.output().0.contains("  (new)\n"));
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    gateway.restart();
    assert!(gateway.output().0.contains("  (2 accounts)\n"));
}

#[test]
fn a_gateway_that_lost_its_database_begins_anew_only_if_told_to() {
    let mut gateway = Gateway::start(|_| {});
    gateway.register("alice");
    gateway.terminate();
    assert_eq!(gateway.wait_exit(), Some(0));
    let database = gateway.data_file("im-gateway.db");
    let data_dir = gateway.data_file("");
    let environment = [
        (
            "IM_GATEWAY__GATEWAY_SERVICE__DATA_DIR",
            data_dir.to_str().expect("UTF-8"),
        ),
        ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "0"),
        ("IM_GATEWAY__OPS__LISTEN", "127.0.0.1:0"),
    ];
    std::fs::remove_file(&database).expect("it was there");
    for is_empty in [false, true] {
        if is_empty {
            std::fs::write(&database, b"").expect("an empty file");
        }
        let refused = run_to_exit(&["run"], &environment);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert_plain(&refused.stderr, "--new");
        assert_eq!(database.exists(), is_empty, "nothing was made");
    }
    // With the word it starts, and from then on without.
    let mut started = Command::new(env!("CARGO_BIN_EXE_im-gateway"))
        .args(["run", "--new"])
        .envs(environment)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let banner = BufReader::new(started.stdout.take().expect("piped"));
    let is_new = banner
        .lines()
        .any(|line| line.expect("a line").ends_with("  (new)"));
    started.kill().expect("it runs");
    started.wait().expect("it ends");
    assert!(is_new);
    gateway.restart();
    gateway.register("alice");
}
