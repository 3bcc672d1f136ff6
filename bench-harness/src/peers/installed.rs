//! Which peers this machine has, where, and in which version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PeerKind;

/// Where Debian keeps PostgreSQL's programs, in a directory for each version.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";

/// A peer that this machine has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Installed {
    /// The server's executable.
    program: PathBuf,
    /// Of the server, as it says: numbers with points.
    version: String,
}

impl Installed {
    /// Looks for a peer.
    pub(super) fn find(kind: PeerKind) -> Option<Self> {
        let candidates = match kind {
            PeerKind::Redis | PeerKind::Etcd => on_path(kind.program()),
            PeerKind::Postgres => postgres_programs(),
        };
        candidates.into_iter().find_map(|program| {
            let version = version_of(&program)?;
            Some(Self { program, version })
        })
    }

    /// The server's executable.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// A program that is installed beside the server.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    /// The server's version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }
}

/// The executables of this name that PATH leads to, as they are called: Redis is several programs, and is
/// the one that it is called.
fn on_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).filter(|path| path.is_file()).collect()
}

/// The `postgres` executables that have beside them what a cluster is prepared with, newest version first
/// among those that are not on PATH.
fn postgres_programs() -> Vec<PathBuf> {
    let versions = std::fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| {
        std::cmp::Reverse(path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()))
    });
    let installed = versions.into_iter().map(|version| version.join("bin/postgres"));
    // A link leads to where the others are.
    let on_path = on_path("postgres").into_iter().filter_map(|program| program.canonicalize().ok());
    let mut programs: Vec<_> = on_path.chain(installed).collect();
    programs.retain(|program| {
        ["postgres", "initdb", "pg_basebackup"].iter().all(|name| program.with_file_name(name).is_file())
    });
    programs
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    first_version(&String::from_utf8_lossy(&output.stdout))
}

/// The first word with digits and points, whatever stands before them: `v=7.0.15`, `15.18`.
fn first_version(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| {
        let start = word.find(|character: char| character.is_ascii_digit())?;
        let version = &word[start..];
        let is_version = version.contains('.') && version.chars().next().is_some_and(|c| c.is_ascii_digit());
        is_version.then(|| version.to_owned())
    })
}

/// Whether a version is this one or a later one.
pub(super) fn version_at_least(version: &str, [major, minor]: [u32; 2]) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let own = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    own >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_servers_say() {
        for (text, version) in [
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "7.0.15"),
            ("etcd Version: 3.4.23\nGit SHA: Not provided\nGo Version: go1.19.8", "3.4.23"),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
        ] {
            assert_eq!(first_version(text).as_deref(), Some(version));
        }
        assert_eq!(first_version("no version"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(!version_at_least("7.0.15", [7, 2]));
        assert!(version_at_least("7.2", [7, 2]) && version_at_least("7.10.1", [7, 2]));
        assert!(version_at_least("8.0", [7, 2]));
        assert!(!version_at_least("6.9", [7, 2]));
    }
}
