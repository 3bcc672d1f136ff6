//! Other stores as targets of the load: each one that is built in and installed takes it, acknowledges at
//! the quorum it was started with, and leaves no process, however the harness ends.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bench_harness::peers::{PeerCluster, PeerKind, Settings, Unavailable};
use quorate_client::load::{self, Connection, Control, Failed, Target, Workload};
use quorate_protocol::{Durability, Quorums};
use rustix::process::{Pid, Signal, kill_process};
use smol::LocalExecutor;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-harness");

/// Longest time that anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Tells the test that holds peers where to say which processes they are.
const HOLD_IN: &str = "PEERS_TEST_HOLD_IN";

/// The peers that can be started here; says why the others are skipped.
fn available(durability: Durability) -> Vec<PeerKind> {
    let is_available = |kind: &PeerKind| match kind.check(3, 2, durability) {
        Ok(()) => true,
        Err(unavailable) => {
            eprintln!("skipped: {unavailable}");
            false
        }
    };
    PeerKind::ALL.into_iter().filter(is_available).collect()
}

fn start(kind: PeerKind, durability: Durability, directory: &Path) -> PeerCluster {
    let settings = Settings {
        kind,
        launcher: PROGRAM.into(),
        quorums: Quorums::new(3, 2).unwrap(),
        durability,
        directory: directory.to_owned(),
    };
    smol::block_on(PeerCluster::start(&settings)).unwrap_or_else(|error| panic!("{error:#}"))
}

fn exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_peer_that_is_not_built_in_says_how_to_build_it() {
    for (kind, is_built_in) in [
        (PeerKind::Redis, cfg!(feature = "redis")),
        (PeerKind::Postgres, cfg!(feature = "postgres")),
        (PeerKind::Etcd, cfg!(feature = "etcd")),
    ] {
        let checked = kind.check(3, 2, Durability::Fsync);
        assert_eq!(is_built_in, checked != Err(Unavailable::NotBuiltIn(kind)), "{kind}");
    }
    let advice = Unavailable::NotBuiltIn(PeerKind::Redis).to_string();
    assert_eq!(advice, "redis is not built in: build with --features redis");
}

#[test]
fn a_peer_that_is_not_installed_names_its_package() {
    let advice = |kind| Unavailable::NotInstalled(kind).to_string();
    assert_eq!(advice(PeerKind::Redis), "redis-server is not installed: apt-get install redis-server");
    assert_eq!(advice(PeerKind::Postgres), "postgres is not installed: apt-get install postgresql");
    assert_eq!(advice(PeerKind::Etcd), "etcd is not installed: apt-get install etcd-server");
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in PeerKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
    let refused = "mysql".parse::<PeerKind>().unwrap_err();
    assert_eq!(refused, "\"mysql\" is no peer: write one of redis, postgres, etcd");
}

#[cfg(feature = "etcd")]
#[test]
fn what_a_peer_cannot_do_is_refused_with_advice() {
    let refused = |quorum, durability| PeerKind::Etcd.check(3, quorum, durability).unwrap_err().to_string();
    assert_eq!(refused(1, Durability::Fsync), "etcd acknowledges at a majority only: choose --quorum 2 of 3");
    assert_eq!(refused(2, Durability::Os), "etcd syncs before it acknowledges: choose --durability fsync");
}

#[test]
fn a_peer_takes_the_load_and_leaves_no_process() {
    for (kind, durability) in [Durability::Fsync, Durability::Os]
        .into_iter()
        .flat_map(|durability| available(durability).into_iter().map(move |kind| (kind, durability)))
    {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = start(kind, durability, directory.path());
        let workload = Workload {
            clients: 4,
            in_flight: 8,
            read_share: 0.25,
            keys: 100,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            ..Workload::default()
        };
        let report = load::run(&workload, &cluster.target(DEADLINE), &Control::default(), None).unwrap();
        for (what, calls) in [("writes", &report.writes), ("reads", &report.reads)] {
            assert!(calls.acknowledged > 0, "{kind} acknowledged no {what}");
            assert_eq!((calls.refused, calls.unknown), (0, 0), "{kind}: {what}: {:?}", calls.reasons);
        }
        let description = cluster.description();
        assert!(description.version.contains('.') && description.servers == 3, "{description:?}");
        assert!(!description.settings.is_empty() && !description.acknowledgement.is_empty());
        cluster.check_running().unwrap();
        let processes = cluster.processes();
        assert!(cluster.process_ids().iter().all(|server| processes.contains(server) && exists(*server)));
        cluster.shut_down().unwrap();
        assert!(!processes.into_iter().any(exists), "{kind} left a process");
    }
}

#[test]
fn without_its_quorum_a_peer_acknowledges_nothing() {
    for kind in available(Durability::Fsync) {
        let directory = tempfile::tempdir().unwrap();
        let cluster = start(kind, Durability::Fsync, directory.path());
        let target = cluster.target(Duration::from_secs(5));
        let executor = Rc::new(LocalExecutor::new());
        smol::block_on(executor.run(async {
            let connection = target.connect(0, &executor).await.unwrap();
            assert_eq!(connection.value(b"key").await, Ok(None), "{kind}");
            assert_eq!(connection.write(b"key", b"one").await, Ok(None), "{kind}");
            assert_eq!(connection.value(b"key").await, Ok(Some(b"one".to_vec())), "{kind}");
            pause_all_but_the_first(&cluster, directory.path());
            let error = connection.write(b"key", b"two").await.unwrap_err();
            assert_eq!(error.outcome, Failed::Unknown, "{kind}: {error}");
        }));
        drop(executor);
        let processes = cluster.processes();
        drop(cluster);
        assert!(!processes.into_iter().any(exists), "{kind} left a process that was paused");
    }
}

/// Pauses the servers 2 and 3 with their children: of three, they are two that every quorum of two needs one
/// of, whichever leads.
fn pause_all_but_the_first(cluster: &PeerCluster, directory: &Path) {
    let first = directory.canonicalize().unwrap().join("node-1");
    let mut paused = cluster.processes();
    paused.retain(|process| fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|data| data != first));
    for process in &paused {
        kill_process(Pid::from_raw(*process as i32).unwrap(), Signal::STOP).unwrap();
    }
    wait_until("the servers pause", || paused.iter().all(|process| is_paused(*process)));
    assert!(paused.len() >= 2);
}

fn is_paused(process: u32) -> bool {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    line.rsplit_once(')').is_some_and(|(_, after_name)| after_name.trim_start().starts_with('T'))
}

#[test]
fn a_killed_harness_leaves_no_peer() {
    if available(Durability::Fsync).is_empty() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "holds_peers_until_it_is_killed"])
        .env(HOLD_IN, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let list = directory.path().join("processes");
    wait_until("the peers start", || {
        assert!(holder.try_wait().unwrap().is_none(), "the process that holds the peers has ended");
        list.exists()
    });
    let processes: Vec<u32> =
        fs::read_to_string(list).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(processes.len() >= 3 && processes.iter().copied().all(exists));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("all processes end", || !processes.iter().copied().any(exists));
}

#[test]
#[ignore = "another test starts it, and kills it"]
fn holds_peers_until_it_is_killed() {
    let Some(directory) = std::env::var_os(HOLD_IN) else { return };
    let directory = Path::new(&directory);
    let clusters: Vec<_> = available(Durability::Fsync)
        .into_iter()
        .map(|kind| {
            let data = directory.join(kind.name());
            fs::create_dir(&data).unwrap();
            start(kind, Durability::Fsync, &data)
        })
        .collect();
    let processes: Vec<_> =
        clusters.iter().flat_map(PeerCluster::processes).map(|process| process.to_string()).collect();
    let unfinished = directory.join("unfinished");
    fs::write(&unfinished, processes.join("\n")).unwrap();
    fs::rename(unfinished, directory.join("processes")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_peers_program_that_no_harness_started_does_not_start() {
    let wrong: [&[&str]; 4] = [
        &["peer"],
        &["peer", "1", "9", "-", "true"],
        &["peer", "1", "x", "-", "true"],
        &["peer", "1", "9", "somebody", "true"],
    ];
    for arguments in wrong {
        let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
