//! The examples, run as their users run them, against a cluster whose nodes are killed.

mod programs;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout};

use futures_lite::future::block_on;
use programs::{Program, cluster, example, servers, wait_for};
use quorate_client::{Acks, Client, Error};
use quorate_protocol::NodeId;
use quorate_server::testing::TestCluster;

/// What it prints, line by line.
fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

#[test]
fn hello_has_twenty_lines_and_survives_a_leader_kill() {
    let source = include_str!("../examples/hello.rs");
    let code = source.lines().filter(|line| !line.starts_with("//") && !line.is_empty());
    assert!(code.count() <= 20);
    let mut cluster = cluster();
    let mut hello = example("hello", &[&servers(&cluster)]).start();
    let mut printed = lines(&mut hello);
    for i in 1..=5 {
        assert_eq!(printed.next().unwrap().unwrap(), format!("hello {i}"));
    }
    let killed = cluster.kill_leader().unwrap();
    for i in 6..=30 {
        assert_eq!(printed.next().unwrap().unwrap(), format!("hello {i}"));
    }
    assert_ne!(cluster.leader().unwrap(), killed, "it went on with another leader");
    assert!(hello.wait().unwrap().success());
}

#[test]
fn counters_in_several_processes_lose_and_double_no_step_when_the_leader_is_killed() {
    const STEPS: u64 = 150;
    let mut cluster = cluster();
    let arguments = [&servers(&cluster), &STEPS.to_string()];
    let mut first = example("counter", &arguments.map(String::as_str)).start();
    let second = example("counter", &arguments.map(String::as_str)).start();
    let mut printed = lines(&mut first);
    assert_eq!(printed.by_ref().take(10).count(), 10);
    let killed = cluster.kill_leader().unwrap();
    let rest = printed.count();
    assert_eq!(rest as u64, STEPS - 10, "it was killed in the midst of counting");
    assert!(first.wait().unwrap().success() && second.wait_with_output().unwrap().status.success());
    assert_ne!(cluster.leader().unwrap(), killed);
    let client = Client::connect(cluster.addresses()).unwrap();
    let counted = block_on(client.get("counter")).unwrap().value.unwrap().value;
    assert_eq!(String::from_utf8(counted).unwrap(), (2 * STEPS).to_string());
}

#[test]
fn a_session_goes_on_in_another_process_at_every_replica() {
    let cluster = cluster();
    for value in ["one", "two", "three"] {
        let token = example("session", &[&servers(&cluster), "write", value]).printed();
        for node in cluster.nodes() {
            let read = example("session", &[&cluster.address(node).unwrap(), "read", token.trim()]).printed();
            assert_eq!(read.trim(), value, "node {node}");
        }
    }
}

#[test]
fn a_queue_has_each_job_done_by_one_worker_who_goes_on_where_he_was() {
    let mut cluster = cluster();
    let servers = servers(&cluster);
    let add = |jobs: &[&str]| example("queue", &[&[&servers, "add"], jobs].concat()).printed();
    let work = |name| example("queue", &[&servers, "work", name]).start();
    add(&["a", "b", "c"]);
    let (mut done, mut doing) = (Vec::new(), work("anna"));
    done.extend(lines(&mut doing).take(3).map(Result::unwrap));
    wait_until_done(&cluster, &["a", "b", "c"]);
    doing.kill().unwrap();
    assert!(said(doing).contains("anna begins"));

    let killed = cluster.kill_leader().unwrap();
    add(&["d", "e", "f", "g"]);
    let (mut anna, mut ben) = (work("anna"), work("ben"));
    wait_until_done(&cluster, &["d", "e", "f", "g"]);
    cluster.restart(killed).unwrap();
    add(&["h", "i"]);
    wait_until_done(&cluster, &["h", "i"]);
    let streams = [lines(&mut anna), lines(&mut ben)];
    anna.kill().unwrap();
    ben.kill().unwrap();
    done.extend(streams.into_iter().flatten().map(Result::unwrap));
    assert!(said(anna).contains("anna goes on behind q1-") && said(ben).contains("ben begins"));

    let jobs: BTreeSet<_> = done.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(jobs.into_iter().collect::<String>(), "abcdefghi");
    assert_eq!(done.len(), 9, "each by one: {done:?}");
}

/// Waits until there is none of these jobs.
fn wait_until_done(cluster: &TestCluster, jobs: &[&str]) {
    let client = Client::connect(cluster.addresses()).unwrap().with_deadline(programs::PATIENCE);
    wait_for("the jobs are done", || {
        let is_done = |job: &&str| block_on(client.get(format!("jobs/{job}"))).unwrap().value.is_none();
        jobs.iter().all(is_done).then_some(())
    });
}

/// What a process that has ended said on standard error.
fn said(child: Child) -> String {
    String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
}

#[test]
fn writes_at_one_copy_are_found_to_be_kept() {
    let cluster = cluster();
    let printed = example("low_latency", &[&servers(&cluster), "write"]).printed();
    let [times, token] = printed.lines().collect::<Vec<_>>()[..] else { panic!("{printed}") };
    assert!(times.contains("at a quorum"), "{times}");
    let checked = example("low_latency", &[&servers(&cluster), "check", token]).printed();
    assert!(checked.starts_with("kept"), "{checked}");
}

#[test]
fn a_write_at_one_copy_that_a_failover_drops_is_found_to_be_lost() {
    let mut cluster = cluster();
    let (leader, token) = wait_for("a write is on the leader alone", || write_alone(&mut cluster));
    // What the others have of it is in their sockets; it goes with them.
    let nodes: Vec<_> = cluster.nodes().collect();
    nodes.iter().for_each(|node| cluster.kill(*node).unwrap());
    nodes.iter().filter(|node| **node != leader).for_each(|node| cluster.restart(*node).unwrap());
    assert_ne!(cluster.leader().unwrap(), leader);
    cluster.restart(leader).unwrap();
    let checked = example("low_latency", &[&servers(&cluster), "check", &token]).printed();
    assert!(checked.starts_with("lost"), "{checked}");
}

/// A leader, and the token of a write that only it has, while the others stand still. None if it noticed that before.
fn write_alone(cluster: &mut TestCluster) -> Option<(NodeId, String)> {
    let leader = cluster.leader().unwrap();
    let client = Client::builder().servers([cluster.address(leader).unwrap()]).exactly_once(false);
    let client = client.connect().unwrap();
    block_on(client.set("connected", "")).unwrap();
    let others: Vec<_> = cluster.nodes().filter(|node| *node != leader).collect();
    others.iter().for_each(|node| cluster.pause(*node).unwrap());
    match block_on(client.set("low-latency", "alone").acks(Acks::Copies(1))) {
        Ok(written) => {
            assert!(!written.receipt.survives_failover);
            Some((leader, written.token().to_string()))
        }
        Err(Error::Refused(_) | Error::Deadline) => {
            others.iter().for_each(|node| cluster.resume(*node).unwrap());
            cluster.wait_until_ready().unwrap();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn typed_keys_and_values_come_back_as_what_they_were() {
    let cluster = cluster();
    let printed = example("typed", &[&servers(&cluster)]).printed();
    let expected = [
        "7 is Some(\"seven\")",
        "seven is Some(7)",
        "paid: true",
        "account 1: Account { owner: \"Ada\", cents: 750 }",
        "-1 is None",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}
