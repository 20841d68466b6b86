//! `im-gateway backup`: a copy of the database while it is used, of whatever kind the process is
//! that has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::common::cluster::Cluster;
use crate::common::process::Finished;
use crate::common::{Client, Gateway, run_to_exit};

fn backup(data_dir: &Path, target: &Path) -> Finished {
    let data_dir = data_dir.to_str().expect("UTF-8");
    let target = target.to_str().expect("UTF-8");
    run_to_exit(
        &["backup", target],
        &[("IM_GATEWAY__GATEWAY_SERVICE__DATA_DIR", data_dir)],
    )
}

fn mode_of(path: &Path) -> u32 {
    let file = fs::metadata(path).expect("it is there");
    file.permissions().mode() & 0o777
}

/// A gateway that serves alone over a copy of the database.
fn gateway_over(copy: &Path) -> Gateway {
    Gateway::start(|config| {
        let directory = config.data_directory();
        fs::create_dir_all(&directory).expect("a directory");
        fs::copy(copy, directory.join("im-gateway.db")).expect("a copy of the copy");
    })
}

/// The numbers in the inbox of a user who never logged in before.
fn inbox_of(gateway: &Gateway, name: &str) -> Vec<u64> {
    let mut client: Client = gateway.login_manual(name);
    let messages = client.drain_inbox();
    messages
        .iter()
        .map(|message| message.number("seq"))
        .collect()
}

/// Makes a copy while `alice` sends one message after the other to `to`; says how many were
/// acknowledged before it began.
fn back_up_under_load(mut alice: Client, to: u64, data_dir: &Path, target: &Path) -> usize {
    for n in 0..200 {
        alice.chat(to, &format!("before {n}"));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let sending = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut count = 0;
            while !is_over.load(Ordering::Acquire) {
                alice.chat(to, "meanwhile");
                count += 1;
            }
            count
        }
    });
    let finished = backup(data_dir, target);
    is_over.store(true, Ordering::Release);
    let meanwhile = sending.join().expect("every message was acknowledged");
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(meanwhile > 0, "the store went on");
    assert_eq!(mode_of(target), 0o600);
    200
}

fn assert_has_all(copy: &Path, acknowledged: usize) {
    let numbers = inbox_of(&gateway_over(copy), "bob");
    assert!(numbers.len() >= acknowledged, "{}", numbers.len());
    let dense: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, dense);
}

#[test]
fn a_gateway_that_serves_alone_is_copied_while_it_stores() {
    let mut gateway = Gateway::start_on_two_cores();
    let directory = TempDir::new().expect("a directory");
    let target = directory.path().join("copy.db");
    let data_dir = gateway.data_file("");
    assert_eq!(mode_of(&gateway.data_file("backup.sock")), 0o600);
    let alice = gateway.register("alice");
    let bob = gateway.register("bob").uid;
    let acknowledged = back_up_under_load(alice, bob, &data_dir, &target);
    assert_has_all(&target, acknowledged);

    // What is there is never touched, and nothing is left over.
    let before = fs::read(&target).expect("the copy");
    let refused = backup(&data_dir, &target);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("choose another name"),
        "{refused:?}"
    );
    assert!(fs::read(&target).expect("the copy") == before);
    assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 1);

    // After a kill, with the log still there and nobody who listens.
    gateway.kill_9();
    let target = directory.path().join("at-rest.db");
    let finished = backup(&data_dir, &target);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_has_all(&target, acknowledged);
    gateway.restart();
    let target = directory.path().join("again.db");
    assert_eq!(backup(&data_dir, &target).code, Some(0));
}

#[test]
fn backends_that_share_a_database_are_copied_while_they_store() {
    let mut cluster = Cluster::start(2, 1);
    let directory = TempDir::new().expect("a directory");
    let target = directory.path().join("copy.db");
    let alice = cluster.register(0, "alice");
    let bob = cluster.register(0, "bob").uid;
    let data_dir = cluster.ground.data_directory();
    let acknowledged = back_up_under_load(alice, bob, &data_dir, &target);
    assert_has_all(&target, acknowledged);
    cluster.assert_sound();
}

#[test]
fn without_a_database_there_is_nothing_to_copy() {
    let directory = TempDir::new().expect("a directory");
    let target = directory.path().join("copy.db");
    let refused = backup(&directory.path().join("nowhere"), &target);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("no database"), "{refused:?}");
    assert!(!target.exists());
}
