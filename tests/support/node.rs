//! Node, and packages of it that tests need. Each comes from the registry that npm is configured
//! with, once: it stays in the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder to be named by `NODE_PATH`, with the package `name` in this `version`.
pub fn packages(name: &str, version: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = home.join(format!("node-{name}-{version}"));
    if !folder.exists() {
        fs::create_dir_all(home).expect("the target directory");
        let new = tempfile::tempdir_in(home).expect("a folder");
        let output = Command::new("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefix",
            ])
            .arg(new.path().join("packages"))
            .arg(format!("{name}@{version}"))
            .output()
            .expect("npm is needed; on Debian: apt-get install nodejs npm");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        // Another run may have been faster; then its folder is as good.
        let _ = fs::rename(new.path().join("packages"), &folder);
    }
    let modules = folder.join("node_modules");
    assert!(modules.join(name).exists(), "{modules:?}");
    modules
}
