//! `quorate` with a real cluster: what was written by one command is found by the next, whoever leads.

mod programs;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use programs::{Program, cluster, quorate, servers, wait_for};
use quorate_client::SessionToken;
use serde_json::Value as Json;

fn json(command: Command) -> Json {
    serde_json::from_str(&command.printed()).unwrap()
}

#[test]
fn a_watch_tells_every_change_across_a_failover_and_goes_on_in_another_process() {
    let mut cluster = cluster();
    let servers = servers(&cluster);
    let begin = json(quorate(&servers, &["set", "other", "", "--format", "json"]));
    let arguments = ["watch", "k", "--after", begin["token"].as_str().unwrap(), "--format", "json"];
    let mut watch = quorate(&servers, &[&arguments[..], &["--count", "3"]].concat()).start();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Json>(&lines.next().unwrap().unwrap()).unwrap();
    quorate(&servers, &["set", "k1", "1"]).printed();
    let first = next();
    assert_eq!((&first["key"], &first["value"]), (&"k1".into(), &"1".into()));

    let killed = cluster.kill_leader().unwrap();
    quorate(&servers, &["delete", "k1"]).printed();
    assert_eq!(
        quorate(&servers, &["delete", "k1"]).printed().split(':').next(),
        Some("done, the key was absent")
    );
    quorate(&servers, &["set", "k2", "2"]).printed();
    assert_eq!(next()["change"], "delete");
    let last = next();
    assert_eq!(
        (&last["key"], &last["change"]),
        (&"k2".into(), &"set".into()),
        "what changed nothing is no change"
    );
    let ended = watch.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && said.contains(last["token"].as_str().unwrap()), "{said}");
    assert_ne!(cluster.leader().unwrap(), killed);

    quorate(&servers, &["set", "k3", "3"]).printed();
    let arguments = ["watch", "--key", "k3", "--after", last["token"].as_str().unwrap(), "--count", "1"];
    let found = quorate(&servers, &arguments).printed();
    assert!(found.starts_with("set\t") && found.ends_with("\tk3\t3\n"), "{found}");
}

#[test]
fn a_watch_behind_what_no_replica_has_yet_says_so() {
    let cluster = cluster();
    let servers = servers(&cluster);
    let written = json(quorate(&servers, &["set", "a", "1", "--format", "json"]));
    let future = format!("{}0", written["token"].as_str().unwrap());
    let watch = ["--servers", &servers, "--timeout", "1s", "watch", "--after", &future];
    let said = wait_for("a replica answers in time", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(watch);
        let ended = command.ended();
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(4), 0));
        let said = String::from_utf8(ended.stderr).unwrap();
        said.contains("behind the token").then_some(said)
    });
    assert!(said.contains("the token is not of this cluster") && !said.contains("go on with"), "{said}");
}

#[test]
fn lines_are_imported_while_the_leader_is_killed_and_exported_the_same() {
    const LINES: u32 = 60_000;
    let mut cluster = cluster();
    let servers = servers(&cluster);
    let lines: String = (0..LINES).map(|line| format!("key{line:06}\tvalue {line}\\n\n")).collect();
    let (before, after) = lines.split_at(lines.len() / 2);
    let mut import = quorate(&servers, &["import"]);
    import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    input.write_all(before.as_bytes()).unwrap();
    wait_for("lines are written", || {
        quorate(&servers, &["get", "key000300"]).ended().status.success().then_some(())
    });
    let killed = cluster.kill_leader().unwrap();
    input.write_all(after.as_bytes()).unwrap();
    drop(input);
    let imported = import.wait_with_output().unwrap();
    let said = String::from_utf8(imported.stderr).unwrap();
    assert!(imported.status.success(), "{said}");
    assert_eq!(String::from_utf8(imported.stdout).unwrap(), format!("{LINES} lines written, 0 skipped\n"));
    assert_ne!(cluster.leader().unwrap(), killed, "it went on with another leader");
    assert!(quorate(&servers, &["export"]).printed() == lines, "every line is there once, as it was");
}

#[test]
fn a_token_goes_from_a_write_to_a_session_read_at_each_replica() {
    let cluster = cluster();
    let written = json(quorate(&servers(&cluster), &["set", "a", "1", "--format", "json"]));
    let token = written["token"].as_str().unwrap();
    let index = |token: &str| token.parse::<SessionToken>().unwrap().index();
    for node in cluster.nodes() {
        let address = cluster.address(node).unwrap();
        let read = ["--read", "session", "--token", token];
        for command in [["get", "a"].as_slice(), &["scan"], &["export"]] {
            let found = quorate(&address, &[command, &read].concat()).printed();
            assert!(found.trim_end().ends_with('1'), "{found}");
        }
        for command in ["get", "scan"] {
            let read = json(quorate(&address, &[command, "a", "--read", "local", "--format", "json"]));
            let seen = read["token"].as_str().unwrap();
            assert!(index(seen) >= index(token), "what a read has seen goes on to the next one: {seen}");
        }
    }
}

#[test]
fn copies_beyond_the_quorum_are_waited_for_and_said_to_be_missing() {
    let mut cluster = cluster();
    let servers = servers(&cluster);
    let all = json(quorate(&servers, &["set", "a", "1", "--acks", "all", "--format", "json"]));
    assert_eq!(all["holders"], Json::from(vec![1, 2, 3]));
    let progress = quorate(&servers, &["set", "a", "2", "--progress"]).printed();
    let lines: Vec<_> = progress.lines().collect();
    let [.., last, done] = lines.as_slice() else { panic!("{progress}") };
    assert!(last.starts_with("3 copies after ") && done.starts_with("done"), "{progress}");

    let leader = cluster.leader().unwrap();
    let follower = cluster.nodes().find(|node| *node != leader).unwrap();
    cluster.kill(follower).unwrap();
    let said = wait_for("the leader's answer at the deadline comes in time", || {
        let mut short = Command::new(env!("CARGO_BIN_EXE_quorate"));
        short.args(["--servers", &servers, "--timeout", "1s", "set", "a", "3", "--acks", "all"]);
        let ended = short.ended();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!([Some(5), Some(6)].contains(&ended.status.code()), "{said}");
        (ended.status.code() == Some(6)).then_some(said)
    });
    assert!(said.contains("known on 2 of the 3 replicas"), "{said}");
    let none = quorate(&servers, &["cas", "a", "4", "--revision", "1", "--acks", "1"]).ended();
    assert_eq!(none.status.code(), Some(1), "a condition is known only when it is committed");
}

#[test]
fn status_shows_sessions_and_watches() {
    let cluster = cluster();
    let servers = servers(&cluster);
    let leader = cluster.address(cluster.leader().unwrap()).unwrap();
    let client = quorate_client::Client::connect(cluster.addresses()).unwrap();
    futures_lite::future::block_on(client.set("a", "1")).unwrap();
    let mut watch = quorate(&leader, &["watch"]).start();
    wait_for("a node serves the watch", || {
        let nodes = json(quorate(&servers, &["status", "--format", "json"]));
        let watches = |node: &Json| node["clients"]["watches"].as_u64().unwrap();
        assert!(nodes.as_array().unwrap().iter().all(|node| node["reached"] == true), "{nodes}");
        let sum: u64 = nodes.as_array().unwrap().iter().map(watches).sum();
        (sum == 1 && nodes[0]["clients"]["sessions"] == 1).then_some(())
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
}
