//! Packages of Python that tests need. Each comes from the index that pip is configured with, once:
//! it stays in the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder to be put on Python's path, with the package `requirement` and what it needs;
/// `module` is in it then.
pub fn packages(name: &str, requirement: &str, module: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = home.join(format!("python-{name}"));
    if !folder.exists() {
        fs::create_dir_all(home).expect("the target directory");
        let new = tempfile::tempdir_in(home).expect("a folder");
        install(new.path(), &new.path().join("packages"), requirement);
        // Another run may have been faster; then its folder is as good.
        let _ = fs::rename(new.path().join("packages"), &folder);
    }
    assert!(folder.join(module).exists(), "{folder:?}");
    folder
}

fn install(folder: &Path, packages: &Path, requirement: &str) {
    let own = Path::new("python3").to_owned();
    let has_pip = Command::new(&own)
        .args(["-m", "pip", "--version"])
        .output()
        .expect("python3 is needed; on Debian: apt-get install python3 python3-venv")
        .status
        .success();
    let python = if has_pip {
        own
    } else {
        let venv = folder.join("venv");
        run(Command::new(&own).args(["-m", "venv"]).arg(&venv));
        venv.join("bin/python")
    };
    run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(packages)
        .arg(requirement));
}

fn run(command: &mut Command) {
    let output = command.output().expect("python3 starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
