//! `im-gateway doctor`: what it finds in use, missing and away. Runs the real binary beside real
//! parts.

use std::process::Command;

use tempfile::TempDir;

use crate::common::backend_process::BackendProcess;
use crate::common::cluster::Ground;
use crate::common::{Gateway, run_to_exit};

/// What the doctor says with these variables; its exit code must be this one.
fn examine(variables: &[(&str, &str)], code: i32) -> String {
    let mut all = vec![
        ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "0"),
        ("IM_GATEWAY__OPS__LISTEN", ""),
    ];
    all.extend(variables);
    let examined = run_to_exit(&["doctor"], &all);
    assert_eq!(examined.code, Some(code), "{}", examined.stdout);
    examined.stdout
}

/// The line about `what`.
#[track_caller]
fn line<'a>(table: &'a str, what: &str) -> &'a str {
    table
        .lines()
        .find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(what)))
        .unwrap_or_else(|| panic!("nothing about {what}:\n{table}"))
}

#[test]
fn a_data_directory_in_use_is_named_with_its_holder_and_one_at_rest_with_its_accounts() {
    let mut gateway = Gateway::start(|_| {});
    gateway.register("alice");
    let data = gateway.data_file("");
    let data = data.to_str().expect("UTF-8");
    let variables = [("IM_GATEWAY__GATEWAY_SERVICE__DATA_DIR", data)];
    let table = examine(&variables, 4);
    let held = line(&table, "data in use");
    assert!(held.starts_with("FAIL"), "{held}");
    assert!(held.contains(&gateway.pid().to_string()), "{held}");
    gateway.terminate();
    gateway.wait_exit();
    let table = examine(&variables, 0);
    assert!(line(&table, "database").contains("1 accounts"), "{table}");
    assert!(line(&table, "token secret").starts_with("ok"), "{table}");
}

#[test]
fn in_a_cluster_redis_zookeeper_and_backends_are_asked() {
    let ground = Ground::start();
    let hosts = ground.zookeeper_hosts();
    let redis = ground.redis.address();
    let variables = [
        (
            "IM_GATEWAY__SERVICE_DISCOVERY__ZOOKEEPER_HOSTS",
            hosts.as_str(),
        ),
        ("IM_GATEWAY__REDIS__ADDRESS", redis.as_str()),
    ];
    let table = examine(&variables, 4);
    assert!(line(&table, "Redis").starts_with("ok"), "{table}");
    assert!(
        line(&table, "ZooKeeper").contains("root /im does not exist"),
        "{table}"
    );
    let mut backend = BackendProcess::launch(|config| ground.configure_backend(config));
    backend.wait_until_ready();
    let table = examine(&variables, 0);
    assert!(line(&table, "ZooKeeper").starts_with("ok"), "{table}");
    for service in [
        "UserService",
        "PresenceService",
        "MessageService",
        "GroupService",
    ] {
        let found = line(&table, service);
        assert!(
            found.starts_with("ok") && found.contains("1 of 1"),
            "{found}"
        );
    }
    drop(backend);
    let table = examine(
        &[variables[0], ("IM_GATEWAY__REDIS__ADDRESS", "127.0.0.1:1")],
        4,
    );
    assert!(line(&table, "Redis").contains("127.0.0.1:1"), "{table}");
    assert!(line(&table, "UserService").starts_with("warn"), "{table}");
}

/// Says what the doctor finds about CPUs in a control group `/a`, with these `cpu.max` of the root
/// and of the group; `None`: this process may not mount.
fn cpus_under_quotas(root: &str, group: &str) -> Option<String> {
    const SCRIPT: &str = r#"mount --bind "$1/membership" /proc/$$/cgroup &&
        mount --bind "$1/groups" /sys/fs/cgroup && exec "$2" doctor"#;
    let directory = TempDir::new().expect("a temporary directory");
    let file = |name: &str, content: &str| {
        std::fs::write(directory.path().join(name), content).expect("a file");
    };
    std::fs::create_dir_all(directory.path().join("groups/a")).expect("a directory");
    file("membership", "0::/a\n");
    file("groups/cgroup.controllers", "cpu\n");
    file("groups/a/cgroup.controllers", "cpu\n");
    file("groups/cpu.max", root);
    file("groups/a/cpu.max", group);
    let examined = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(directory.path())
        .arg(env!("CARGO_BIN_EXE_im-gateway"))
        .current_dir(directory.path())
        .env("IM_GATEWAY__GATEWAY_SERVICE__PORT", "0")
        .env("IM_GATEWAY__OPS__LISTEN", "")
        .output()
        .ok()?;
    let table = String::from_utf8(examined.stdout).expect("UTF-8");
    (!table.is_empty()).then(|| line(&table, "CPUs").to_owned())
}

#[test]
fn a_quota_of_any_control_group_above_decides_how_many_workers_there_are() {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let no_quota = cpus_under_quotas("max 100000\n", "max 100000\n");
    let (Some(no_quota), true) = (no_quota, usable > 1) else {
        println!("skipped: this process may not mount, or has one CPU");
        return;
    };
    assert!(!no_quota.contains("quota"), "{no_quota}");
    for (root, group) in [
        ("max 100000\n", "100000 100000\n"),
        ("150000 100000\n", "max 100000\n"),
        // Less than one CPU's time is one worker all the same.
        ("max 100000\n", "20000 100000\n"),
    ] {
        let found = cpus_under_quotas(root, group).expect("it may mount");
        let expected = "of which a quota allows the time of 1, 1 workers";
        assert!(found.ends_with(expected), "{root}{group}{found}");
    }
}
