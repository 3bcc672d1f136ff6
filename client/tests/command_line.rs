//! `quorate`: what it prints, and what it exits with.

mod fake;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::Duration;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use fake::{Fake, always, nobody, store};
use quorate_protocol::response::{Obstacle, Refusal};

/// Longest time that a command may take here, whatever it is told.
const DEADLINE: Duration = Duration::from_secs(60);

fn quorate(server: &str, arguments: &[&str]) -> Assert {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env("QUORATE_SERVERS", server).args(["--timeout", "10s"]).args(arguments).assert()
}

fn stdout(assert: Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The one line on standard error.
fn error(assert: &Assert) -> String {
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn set_get_delete_and_get_again() {
    let server = store();
    let text = stdout(quorate(&server, &["set", "a", "1"]).success());
    assert_eq!(
        text,
        "done, the key was absent: index 1, fsync on nodes 1 2, survives a failover, 1 may be lost\n"
    );
    assert_eq!(stdout(quorate(&server, &["get", "a"]).success()), "1\n");
    quorate(&server, &["delete", "a"]).success();
    let absent = quorate(&server, &["get", "a"]).code(3).stdout("");
    assert_eq!(error(&absent), "quorate: the key is absent\n");
    quorate(&server, &["delete", "a"]).success();
}

#[test]
fn values_are_any_bytes() {
    let server = store();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["--servers", &server, "set", "a", "-"]).write_stdin(&b"\xff\x00\n"[..]).assert().success();
    quorate(&server, &["get", "a"]).success().stdout(&b"\xff\x00\n\n"[..]);
    let json = stdout(quorate(&server, &["get", "a", "--format", "json"]).success());
    assert_eq!(json, "{\"key\":\"a\",\"revision\":1,\"value\":null,\"value_hex\":\"ff000a\"}\n");
}

#[test]
fn keys_and_values_of_the_command_line_are_any_bytes() {
    let server = store();
    let run = |arguments: &[&[u8]]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["--servers", &server]).args(arguments.iter().map(|bytes| OsStr::from_bytes(bytes)));
        command.assert().success()
    };
    run(&[b"set", b"k\xff", b"\xfe"]);
    run(&[b"get", b"k\xff"]).stdout(&b"\xfe\n"[..]);
    run(&[b"scan", b"k\xff"]).stdout("k\\xff\t\\xfe\n");
    run(&[b"cas", b"k\xff", b"\xfd", b"--revision", b"1"]);
    run(&[b"get", b"k\xff"]).stdout(&b"\xfd\n"[..]);
    run(&[b"delete", b"k\xff"]);
    run(&[b"scan"]).stdout("");
}

#[test]
fn a_compare_and_set_that_fails_says_what_is_there() {
    let server = store();
    quorate(&server, &["cas", "a", "1", "--revision", "absent"]).success();
    let failed = quorate(&server, &["cas", "a", "2", "--revision", "absent"]).code(1).stdout("");
    assert!(error(&failed).contains("the key is at revision 1, expected absent"));
    let failed = quorate(&server, &["cas", "a", "2", "--revision", "7", "--format", "json"]).code(1);
    assert!(stdout(failed).contains("\"revision\":1"));
    quorate(&server, &["cas", "a", "2", "--revision", "1"]).success();
}

#[test]
fn a_scan_prints_a_prefix_up_to_a_limit() {
    let server = store();
    for (key, value) in [("a", "0"), ("b1", "x"), ("b2", "tab\there"), ("b3", "z")] {
        quorate(&server, &["set", key, value]).success();
    }
    assert_eq!(stdout(quorate(&server, &["scan", "b", "--limit", "2"])), "b1\tx\nb2\ttab\\there\n");
    let json = stdout(quorate(&server, &["scan", "a", "--format", "json"]));
    assert_eq!(json, "{\"key\":\"a\",\"revision\":1,\"value\":\"0\"}\n");
    assert_eq!(stdout(quorate(&server, &["scan"])).lines().count(), 4);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let server = store();
    quorate(&server, &["set", "a", "1"]).success();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut scan = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"));
    let scan = scan.args(["--servers", &server, "scan"]).stdout(writer).stderr(Stdio::piped());
    let output = scan.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn status_of_a_server_that_does_not_run_is_known_at_once() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    let asked =
        command.args(["--servers", &nobody(), "--timeout", "1h", "status"]).timeout(DEADLINE).assert();
    assert!(stdout(asked.code(4)).contains("connection refused"));
}

#[test]
fn status_of_one_node_is_an_object() {
    let one = stdout(quorate(&store(), &["status", "--format", "json"]).success());
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one["role"], &one["election_quorum"]), (&"leader".into(), &2.into()));
    assert_eq!(one["followers"][0]["entries_behind"], 1);
    assert_eq!(one["followers"][0]["lag_us"], 1_234_567);
    assert_eq!((&one["voted_for"], &one["leadership"]), (&1.into(), &"elected".into()));
    let elections = [
        "pre_votes",
        "stood",
        "won",
        "votes_given",
        "votes_refused",
        "stepped_down",
        "followed",
        "truncations",
        "confirmations",
    ];
    assert!(elections.iter().all(|count| one["elections"][count].is_u64()), "{one}");
    let messages = ["append", "ack", "reject", "request_vote", "vote", "other"];
    for way in ["sent", "received"] {
        assert!(messages.iter().all(|kind| one[way][kind].is_u64()), "{one}");
    }
    assert_eq!((&one["elections"]["won"], &one["sent"]["append"]), (&2.into(), &1_234_567.into()));
}

#[test]
fn status_as_text_shows_elections_and_messages_and_fits_a_terminal() {
    let text = stdout(quorate(&store(), &["status"]).success());
    assert!(text.contains("elections since each node started") && text.contains("1234567/0"), "{text}");
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= 120, "{longest} characters:\n{text}");
}

#[test]
fn a_hand_over_prints_the_term_and_its_errors_tell_what_to_do() {
    let server = store();
    let text = stdout(quorate(&server, &["hand-over", "--to", "2"]).success());
    assert_eq!(text, "handed over: term 4 has begun\n");
    let json = stdout(quorate(&server, &["hand-over", "--format", "json"]).success());
    assert_eq!(json, "{\"term\":4}\n");
    let (configured, _refused) = always(Refusal::BadRequest("the leader is configured".into()));
    assert!(error(&quorate(&configured, &["hand-over"]).code(1)).contains("configured"));
    let brief = |server: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["--servers", server, "--timeout", "300ms", "hand-over"]).args(arguments).assert()
    };
    let (alone, _refused) = always(Refusal::NotReady("no other replica has taken over".into()));
    assert!(error(&brief(&alone, &[]).code(4)).contains("no other replica has taken over"));
    let silent = Fake::start();
    let unknown = error(&brief(&silent.address, &[]).code(5));
    assert!(
        unknown.contains("`quorate status` says who leads") && !unknown.contains("read the key"),
        "{unknown}"
    );
    let mut admit = Command::new(env!("CARGO_BIN_EXE_quorate"));
    admit.args(["--servers", &silent.address, "--timeout", "300ms", "admit", "2"]);
    let unknown = error(&admit.assert().code(5));
    assert!(unknown.contains("who is not admitted") && !unknown.contains("read the key"), "{unknown}");
    brief(&server, &["--to", "0"]).code(2);
    brief(&server, &["--to", "64"]).code(2);
}

#[test]
fn status_of_several_nodes_is_an_array_that_shows_who_cannot_be_reached() {
    let (server, gone) = (store(), nobody());
    let ask = |servers: &str, format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["--servers", servers, "--timeout", "300ms", "status", "--format", format]).assert()
    };
    let both = format!("{server},{gone}");
    let json: serde_json::Value = serde_json::from_str(&stdout(ask(&both, "json").success())).unwrap();
    assert_eq!((&json[0]["reached"], &json[1]["reached"]), (&true.into(), &false.into()));
    let text = stdout(ask(&both, "text").success());
    assert!(text.contains("2 of 3") && text.contains("not reached"), "{text}");
    assert!(text.contains("lag") && text.contains("1234.567 ms"), "{text}");
    ask(&gone, "json").code(4);
}

#[test]
fn exit_codes_tell_errors_apart() {
    let brief = |server: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["--servers", server, "--timeout", "300ms"]).args(arguments).assert()
    };
    let gone = nobody();
    assert!(error(&brief(&gone, &["get", "a"]).code(4)).contains(&gone));
    let (no_quorum, _refused) = always(Refusal::NoQuorum { have: 1, need: 2 });
    assert!(error(&brief(&no_quorum, &["set", "a", "1"]).code(4)).contains("1 of the 2 replicas"));
    let (full, _refused) = always(Refusal::Blocked(Obstacle::DiskFull));
    brief(&full, &["set", "a", "1"]).code(1);
    let silent = Fake::start();
    assert!(error(&brief(&silent.address, &["set", "a", "1"]).code(5)).contains("outcome is unknown"));
    brief(&gone, &["get"]).code(2);
    brief(&gone, &["get", ""]).code(2);
    let no_token = brief(&gone, &["get", "a", "--read", "session"]).code(2);
    assert!(String::from_utf8_lossy(&no_token.get_output().stderr).contains("--token"));
    brief("no-port", &["get", "a"]).code(2);
}

#[test]
fn it_tells_shells_and_man_about_itself_without_any_server() {
    let server = nobody();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(quorate(&server, &["completions", shell]).success());
        assert!(["hand-over", "servers"].iter().all(|word| text.contains(word)), "{shell}: {text}");
    }
    let page = stdout(quorate(&server, &["man"]).success());
    assert!(page.contains(".TH quorate 1") && page.contains("QUORATE_SERVERS"), "{page}");
    let page = stdout(quorate(&server, &["man", "cas"]).success());
    assert!(page.contains(".TH quorate-cas 1") && page.contains("\\-\\-revision"), "{page}");
    let wrong = quorate(&server, &["man", "sett"]).code(2).stdout("");
    assert_eq!(error(&wrong), "quorate: there is no command \"sett\": --help lists them\n");
}
