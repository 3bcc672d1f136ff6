//! The server program as people and scripts meet it: settings, exit codes, signals.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use support::{Addresses, PROGRAM, Server, assert_serves, client, command, wait_for};

/// Runs a server that is expected to end by itself.
fn run(arguments: &str, directory: &Path) -> Output {
    let mut command = command("timeout");
    command.args(["30", PROGRAM]).args(arguments.split_whitespace()).current_dir(directory);
    command.env("RUST_LOG", "error").output().unwrap()
}

/// It ends with this code, and one line that has these words.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("quorate-server: "), "{errors}");
    assert!(words.iter().all(|word| errors.contains(word)), "{words:?} in {errors}");
    assert!(output.stdout.is_empty());
}

fn start(arguments: &str, directory: &Path) -> Server {
    let mut command = command(PROGRAM);
    command.args(arguments.split_whitespace()).current_dir(directory);
    Server::start(command, &directory.join("log"))
}

/// The options of node 1 of three, up to --quorum.
fn one_of_three(addresses: &Addresses) -> String {
    let replica = |node| format!("--replica {node}={}", addresses.peer(node));
    let [first, second, third] = [1, 2, 3].map(replica);
    format!("--listen {} {first} {second} {third}", addresses.client(1))
}

#[test]
fn without_settings_it_is_a_cluster_of_one_in_the_working_directory() {
    let directory = tempfile::tempdir().unwrap();
    // The usual port may be somebody's: only that is chosen.
    let mut server = start("--listen 127.0.0.1:0", directory.path());
    assert_serves(&client(server.announced_address()));
    assert!(directory.path().join("quorate-data").is_dir());
}

#[test]
fn both_signals_stop_it_cleanly_and_what_was_acknowledged_is_there_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    for (signal, existing) in [(Signal::TERM, None), (Signal::INT, Some("TERM")), (Signal::TERM, Some("INT"))]
    {
        let mut server = start("--listen 127.0.0.1:0", directory.path());
        let client = client(server.announced_address());
        if let Some(name) = existing {
            let value = smol::block_on(client.get(name)).unwrap().value;
            assert_eq!(value.unwrap().value, b"x", "written before {name}");
        }
        let name = if signal == Signal::TERM { "TERM" } else { "INT" };
        smol::block_on(client.set(name, "x")).unwrap();
        server.signal(signal);
        assert_eq!(server.wait_end().code(), Some(0), "{}", server.log());
    }
}

#[test]
fn a_start_says_in_one_line_what_recovery_has_found_and_done() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start("--listen 127.0.0.1:0", directory.path());
    assert_serves(&client(server.announced_address()));
    server.signal(Signal::KILL);
    server.wait_end();
    let vote = directory.path().join("quorate-data/vote-b");
    let mut bytes = fs::read(&vote).unwrap();
    bytes[30] ^= 1;
    fs::write(&vote, bytes).unwrap();
    let server = start("--listen 127.0.0.1:0", directory.path());
    let line = wait_for("the recovery", || {
        let log = server.log();
        log.lines().find(|line| line.contains(" recovered ")).map(str::to_owned)
    });
    let found =
        ["term=1", "vote_repaired=true", "checkpoint=0", "checkpoints_skipped=0", "first=1", "last=2"];
    let done = [
        "mark=",
        "committed=",
        "applied=",
        "keys=",
        "torn_bytes=0",
        "rewritten_bytes=",
        "segments_removed=0",
    ];
    let fields = [&found[..], &done[..], &["milliseconds="]].concat();
    let missing: Vec<_> = fields.iter().filter(|field| !line.contains(&format!(" {field}"))).collect();
    assert!(missing.is_empty(), "{missing:?} not in {line}");
}

#[test]
fn a_second_process_on_a_directory_names_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start("--listen 127.0.0.1:0 --data here", directory.path());
    assert_serves(&client(server.announced_address()));
    let output = run("--listen 127.0.0.1:0 --data here", directory.path());
    let holder = format!("in use by pid {}, node 1", server.id());
    assert_refused(&output, 3, &[&holder, "stop that process, or use another directory"]);
    assert_serves(&client(server.announced_address()));
}

#[test]
fn a_directory_made_with_other_settings_is_refused_with_both_values() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::take();
    let replicas = one_of_three(&addresses);
    let mut server = start(&format!("--id 1 --quorum 2 {replicas}"), directory.path());
    // It waits for the others, so its identity is all that it has stored.
    support::wait_for("the identity", || {
        server.assert_running();
        directory.path().join("quorate-data/identity").exists().then_some(())
    });
    support::wait_for("the announcement", || server.log().contains("clients at").then_some(()));
    server.signal(Signal::TERM);
    assert_eq!(server.wait_end().code(), Some(0), "{}", server.log());
    for (changed, words) in [
        ("--id 2 --quorum 2", ["node \"1\"", "not \"2\""]),
        ("--id 1 --quorum 3", ["quorum \"2\"", "not \"3\""]),
        ("--id 1 --quorum 2 --cluster other", ["quorate", "other"]),
        ("--id 1 --quorum 2 --leader 3", ["elected leader\"", "leader 3\""]),
        ("--id 1 --quorum 2 --durability os", ["fsync", "os"]),
    ] {
        let output = run(&format!("{changed} {replicas}"), directory.path());
        let both = [words[0], words[1], "start with the settings that it was made with"];
        assert_refused(&output, 3, &both);
    }
    let alone = run("--listen 127.0.0.1:0", directory.path());
    assert_refused(&alone, 3, &["replicas"]);
}

#[test]
fn a_directory_with_other_files_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let photos = directory.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpg"), "a cat").unwrap();
    let output = run("--listen 127.0.0.1:0 --data photos", directory.path());
    assert_refused(&output, 3, &["cat.jpg", "use another directory"]);
    assert_eq!(fs::read_dir(&photos).unwrap().count(), 1);
}

#[test]
fn a_wrong_setting_ends_with_code_2_and_what_to_change_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::take();
    let replicas = one_of_three(&addresses);
    let three = |rest: &str| format!("{replicas} {rest}");
    let two = "--id 1 --quorum 2 --replica 1=127.0.0.1:0 --replica 2=127.0.0.1:1";
    for (arguments, words) in [
        (three("--id 1 --quorum 4"), "it must be from 1 to 3"),
        (three("--id 1 --quorum 0"), "it must be from 1 to 3"),
        (three("--id 1"), "--quorum is missing"),
        (three("--quorum 2"), "--id is missing"),
        ("--id 1 --quorum 2 --replica 1=127.0.0.1:1 --replica 2=127.0.0.1:1".into(), "the same address"),
        (format!("{two} --listen ::1:7401"), "not of the form HOST:PORT"),
        (format!("{two} --listen 0.0.0.0:0"), "add --advertise"),
        (three("--id 4 --quorum 2"), "there is no --replica 4=HOST:PORT: add it"),
        (three("--id 1 --quorum 2 --leader 9"), "--leader is 9, which is none of the replicas"),
        (three("--id 1 --quorum 2 --replica 1=127.0.0.1:1"), "--replica is given twice for node 1"),
        (three("--id 1 --quorum 2 --replica nonsense"), "not of the form ID=HOST:PORT"),
        (three("--id 1 --quorum 2 --replica 4=nowhere"), "not of the form HOST:PORT"),
        ("--id 64".into(), "a number from 1 to 63"),
        ("--quorum 2".into(), "it must be from 1 to 1"),
        ("--listen here".into(), "not of the form HOST:PORT"),
        ("--listen 127.0.0.1:0 --advertise here".into(), "not of the form HOST:PORT"),
        ("--segment-mib 0".into(), "give 1 to 1024"),
        ("--checkpoint-mib 0".into(), "give at least 1"),
        ("--memory-mib 0".into(), "give at least 1"),
        ("--election-timeout-ms 100".into(), "three heartbeats or more"),
        ("--lease-ms 301".into(), "no longer than the timeout"),
        ("--lease-ms 99".into(), "two of them or more"),
        ("--lease-ms 200 --leader 1".into(), "leave one out"),
        ("--session-timeout-ms 799".into(), "16 of them or more"),
        ("--busy-poll-us 5001".into(), "wakes every 5 ms in any case"),
        ("--config missing.toml".into(), "cannot read the configuration missing.toml"),
        // An address of a network kept for examples: nobody's.
        ("--listen 192.0.2.1:1".into(), "cannot listen on 192.0.2.1:1"),
    ] {
        assert_refused(&run(&arguments, directory.path()), 2, &[words]);
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_wrong_option_ends_with_code_2_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in ["--quroum 2", "surplus", "--id many", "--durability maybe"] {
        let output = run(arguments, directory.path());
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(arguments.split(' ').next_back().unwrap()) || errors.contains("--quroum"));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_taken_port_is_a_wrong_setting() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&format!("--listen {address}"), directory.path());
    assert_refused(&output, 2, &["cannot listen on", &address]);
}

#[test]
fn a_wrong_file_is_refused_in_one_line_that_says_where() {
    let directory = tempfile::tempdir().unwrap();
    for (text, words) in [
        ("quroum = 2\n", ["quroum", "line 1"]),
        ("id = 1\nquorum = \"two\"\n", ["\"two\"", "line 2"]),
        ("id = \n", ["wrong.toml", "line 1"]),
        ("durability = \"maybe\"\n", ["maybe", "line 1"]),
    ] {
        fs::write(directory.path().join("wrong.toml"), text).unwrap();
        assert_refused(&run("--config wrong.toml", directory.path()), 2, &words);
    }
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = "listen = \"nowhere\"\ndata = \"from-file\"\nid = 7\n";
    fs::write(directory.path().join("quorate.toml"), file).unwrap();
    let mut command = command(PROGRAM);
    command.args(["--listen", "127.0.0.1:0"]).current_dir(directory.path());
    command.env("QUORATE_LISTEN", "nowhere").env("QUORATE_DATA", "from-environment");
    command.env("QUORATE_CONFIG", "quorate.toml");
    let mut server = Server::start(command, &directory.path().join("log"));
    let client = client(server.announced_address());
    assert_eq!(smol::block_on(client.status(false)).unwrap().view().node.get(), 7);
    assert!(directory.path().join("from-environment").is_dir());
    assert!(!directory.path().join("from-file").exists());
}

#[test]
fn the_limit_of_memory_is_refused_to_writers_and_told_in_the_status() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("quorate.toml"), "memory-mib = 1\nlog-retention-mib = 0\n").unwrap();
    let mut server = start("--listen 127.0.0.1:0 --config quorate.toml", directory.path());
    let client = client(server.announced_address());
    let full = smol::block_on(async {
        for key in 0..100 {
            if let Err(error) = client.set(format!("key {key}"), vec![0; 64 << 10]).await {
                return error;
            }
        }
        panic!("100 values of 64 KiB in 1 MiB");
    });
    assert!(full.to_string().contains("memory is at its limit"), "{full}");
    let status = smol::block_on(client.status(false)).unwrap();
    let status = status.view();
    assert_eq!((status.memory_bytes_max, status.keys), (1 << 20, 15));
    assert!((900 << 10..=1 << 20).contains(&status.memory_bytes), "{}", status.memory_bytes);
    smol::block_on(client.delete("key 0")).unwrap();
    smol::block_on(client.set("key 0", vec![0; 60 << 10])).unwrap();
}

#[test]
fn help_and_version_go_to_standard_output_and_are_no_errors() {
    let directory = tempfile::tempdir().unwrap();
    for (flag, words) in [("--help", "Exit codes"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = run(flag, directory.path());
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(words), "{text}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn it_tells_shells_and_man_about_itself() {
    let directory = tempfile::tempdir().unwrap();
    let printed = |arguments: &str| {
        let output = run(arguments, directory.path());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = printed(&format!("completions {shell}"));
        assert!(["restore", "election-timeout-ms"].iter().all(|word| text.contains(word)), "{shell}: {text}");
    }
    let page = printed("man");
    assert!(page.contains(".TH quorate-server 1") && page.contains("QUORATE_QUORUM"), "{page}");
    let page = printed("man dump");
    assert!(page.contains(".TH quorate-server-dump 1") && page.contains("\\-\\-batches"), "{page}");
    assert_refused(&run("man dunp", directory.path()), 2, &["no command \"dunp\"", "--help"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
