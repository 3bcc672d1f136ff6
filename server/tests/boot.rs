//! `os` durability over restarts of the process and of the machine (R30).

mod support;

use std::path::{Path, PathBuf};

use quorate_protocol::{Durability, Leadership, NodeId, Quorums};
use quorate_server::directory::{self, BootId, DirectoryError, DirectorySettings};
use quorate_server::disk::RealDisk;
use quorate_server::node::RecoveryError;
use quorate_server::server::{self, Listeners, ServerError, ServerSettings};
use rustix::process::Signal;
use support::{PROGRAM, Server, client, command, wait_for};

fn start(directory: &Path) -> Server {
    let mut command = command(PROGRAM);
    command.args(["--listen", "127.0.0.1:0", "--durability", "os"]).current_dir(directory);
    Server::start(command, &directory.join("log"))
}

fn data(directory: &Path) -> PathBuf {
    directory.join("quorate-data")
}

fn set(server: &mut Server, key: &str) {
    smol::block_on(client(server.announced_address()).set(key, "x")).unwrap();
}

fn has(server: &mut Server, key: &str) -> bool {
    smol::block_on(client(server.announced_address()).get(key)).unwrap().value.is_some()
}

/// As if the machine had been started again since.
fn restart_machine(directory: &Path) {
    let another = BootId::new(1);
    assert_ne!(another, BootId::of_this_machine());
    directory::begin_run(&RealDisk, &data(directory), another).unwrap();
}

#[test]
fn a_process_that_was_killed_starts_again_with_everything_it_has_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut server = start(directory.path());
        for earlier in 0..round {
            assert!(has(&mut server, &format!("key {earlier}")));
        }
        set(&mut server, &format!("key {round}"));
        assert!(data(directory.path()).join("boot").exists());
        server.signal(Signal::KILL);
        server.wait_end();
    }
}

#[test]
fn a_node_whose_machine_stopped_under_it_refuses_to_start_with_code_4() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path());
    set(&mut server, "key");
    server.signal(Signal::KILL);
    server.wait_end();
    restart_machine(directory.path());
    for _ in 0..2 {
        let mut server = start(directory.path());
        assert_eq!(server.wait_end().code(), Some(4));
        let log = server.log();
        let words =
            ["--durability os", "the machine has restarted since", "may be lost", "form a new cluster"];
        assert!(words.iter().all(|word| log.contains(word)), "{log}");
    }
}

#[test]
fn a_node_that_was_stopped_cleanly_starts_after_any_restart_of_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let mut server = start(directory.path());
        assert!(round == 0 || has(&mut server, "key"));
        set(&mut server, "key");
        assert!(data(directory.path()).join("boot").exists(), "the fault was possible");
        server.signal(Signal::TERM);
        assert_eq!(server.wait_end().code(), Some(0), "{}", server.log());
        assert!(!data(directory.path()).join("boot").exists());
    }
    let mut server = start(directory.path());
    wait_for("the recovery", || server.log().contains("recovered").then_some(()));
    let log = server.log();
    assert!(log.contains("rewritten_bytes=512 "), "all but the mark itself was marked as durable: {log}");
    assert!(has(&mut server, "key"));
}

#[test]
fn with_fsync_no_boot_is_noted() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command(PROGRAM);
    command.args(["--listen", "127.0.0.1:0"]).current_dir(directory.path());
    let mut server = Server::start(command, &directory.path().join("log"));
    set(&mut server, "key");
    assert!(!data(directory.path()).join("boot").exists());
}

/// Runs a replica in this thread under `boot`, stopped as soon as it has started.
fn run(directory: &Path, boot: Option<BootId>) -> Result<(), ServerError> {
    let node = NodeId::try_from(1).unwrap();
    let identity = DirectorySettings {
        cluster: "boot".into(),
        node,
        quorums: Quorums::new(1, 1).unwrap(),
        leadership: Leadership::Configured(node),
        durability: Durability::Os,
    };
    let mut settings = ServerSettings::new(identity, [node].into_iter().collect(), data(directory));
    settings.boot = boot;
    server::run(settings, Listeners::bind("127.0.0.1:0", None).unwrap(), async {})
}

#[test]
fn where_the_system_does_not_name_its_boots_only_a_node_that_was_stopped_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), None).unwrap();
    run(directory.path(), None).unwrap();
    directory::begin_run(&RealDisk, &data(directory.path()), None).unwrap();
    for boot in [None, BootId::new(1)] {
        let error = run(directory.path(), boot).unwrap_err();
        let ServerError::Recovery(RecoveryError::Directory(DirectoryError::CacheLost { why, .. })) = error
        else {
            panic!("{error}")
        };
        assert!(why.contains("does not say"), "{why}");
    }
}
