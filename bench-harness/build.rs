//! Tells the harness which code it is built from: commit, whether tracked files differ from it, and compiler.
//!
//! Without git, or outside a checkout of its own, the commit is "unknown" and the build goes on. Both facts
//! are as of the last build, which is repeated when HEAD, the index, a manifest or a crate's source changes.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNKNOWN: &str = "unknown";

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts"));
    let workspace = package.parent().unwrap_or(&package);
    watch_sources(workspace);
    let commit = commit(workspace);
    let dirty = commit.as_ref().and_then(|_| dirty(workspace));
    if commit.is_some() {
        watch_checkout(workspace);
    }
    tell("QUORATE_COMMIT", commit.as_deref());
    tell("QUORATE_DIRTY", dirty.map(|dirty| if dirty { "true" } else { "false" }));
    tell("QUORATE_RUSTC", compiler().as_deref());
}

fn tell(name: &str, value: Option<&str>) {
    println!("cargo:rustc-env={name}={}", value.unwrap_or(UNKNOWN));
}

/// The full hash of the commit that is checked out. A repository that merely contains this directory, as
/// when the source was unpacked inside another project, says nothing about it.
fn commit(workspace: &Path) -> Option<String> {
    let root = git(workspace, &["rev-parse", "--show-toplevel"])?;
    let is_own = fs::canonicalize(root).ok()? == fs::canonicalize(workspace).ok()?;
    is_own.then(|| git(workspace, &["rev-parse", "--verify", "HEAD"])).flatten()
}

/// Whether a tracked file differs from the commit.
fn dirty(workspace: &Path) -> Option<bool> {
    git(workspace, &["status", "--porcelain", "--untracked-files=no"]).map(|changes| !changes.is_empty())
}

fn compiler() -> Option<String> {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    output(Command::new(compiler).arg("--version"))
}

/// A git that writes nothing: refreshing the index would look like a change at the next build.
fn git(workspace: &Path, arguments: &[&str]) -> Option<String> {
    output(Command::new("git").arg("--no-optional-locks").arg("-C").arg(workspace).args(arguments))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The log of HEAD grows with every commit, which changes neither HEAD itself nor always the index.
fn watch_checkout(workspace: &Path) {
    for name in ["HEAD", "index", "logs/HEAD"] {
        if let Some(path) = git(workspace, &["rev-parse", "--git-path", name]) {
            watch(&workspace.join(path));
        }
    }
}

fn watch_sources(workspace: &Path) {
    let crates = fs::read_dir(workspace).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in crates.filter(|path| path.join("Cargo.toml").is_file()) {
        watch(&path.join("Cargo.toml"));
        watch(&path.join("src"));
    }
    watch(&workspace.join("Cargo.toml"));
    watch(&workspace.join("Cargo.lock"));
}

/// Cargo takes a path that is not there for one that has changed.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}
