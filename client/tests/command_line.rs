//! `quorate`: what it prints, and what it exits with.

mod fake;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use fake::{Fake, Peer, always, nobody, node, receipt, store, value, written};
use quorate_protocol::parse;
use quorate_protocol::request::{Acks, Operation, Request, Token};
use quorate_protocol::response::{Change, NewValue, Obstacle, Outcome, Receipt, Refusal, WriteResult};
use rustix::process::{Pid, Signal, kill_process};

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

/// With input.
fn quorate_fed(server: &str, arguments: &[&str], input: impl Into<Vec<u8>>) -> Assert {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env("QUORATE_SERVERS", server).args(["--timeout", "10s"]).args(arguments);
    command.write_stdin(input).assert()
}

/// Under way, with all its streams in the test's hands.
fn start(server: &str, arguments: &[&str]) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env("QUORATE_SERVERS", server).args(["--timeout", "10s"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The exit code, what else it printed, and what it said.
fn end(mut child: Child) -> (Option<i32>, String, String) {
    drop(child.stdin.take());
    ended(child.wait_with_output().unwrap())
}

fn ended(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
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
    let absent = quorate(&server, &["get", "a", "--format", "json"]).code(3);
    assert_eq!(stdout(absent), "{\"key\":\"a\",\"revision\":null,\"token\":\"q1-1-2\",\"value\":null}\n");
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
    let expected = r#"{"key":"a","revision":1,"token":"q1-1-1","value":null,"value_hex":"ff000a"}"#;
    assert_eq!(json.trim_end(), expected);
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
    assert_eq!(json.trim_end(), r#"{"key":"a","revision":1,"token":"q1-1-4","value":"0"}"#);
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

/// With standard output on a full disk.
#[cfg(target_os = "linux")]
fn quorate_unheard(server: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"));
    let command = command.args(["--servers", server]).args(arguments).stdin(Stdio::null());
    ended(command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn a_write_whose_result_cannot_be_printed_is_not_said_to_be_undone() {
    let server = store();
    for write in
        [["set", "a", "1"].as_slice(), &["delete", "b"], &["hand-over"], &["admit", "2"], &["import"]]
    {
        let (code, _, stderr) = quorate_unheard(&server, write);
        assert_eq!(code, Some(5), "{write:?}: {stderr}");
        assert!(stderr.contains("is done all the same"), "{stderr}");
    }
    quorate(&server, &["get", "a"]).success().stdout("1\n");
    let cas = ["cas", "a", "2", "--revision", "absent"];
    assert_eq!(quorate_unheard(&server, &cas).0, Some(1), "that it was not done comes first");
    assert_eq!(quorate_unheard(&server, &["get", "a"]).0, Some(1), "a read has done nothing");
}

#[test]
fn the_result_of_a_write_counts_although_nobody_reads_it() {
    let server = Fake::start();
    let mut set = start(&server.address, &["set", "a", "1", "--progress"]);
    drop(set.stdout.take());
    let mut peer = server.peer();
    let id = peer.id();
    peer.answer(id, value(1, b"0"));
    let id = take_write(&mut peer, Acks::Quorum, true);
    peer.answer(id, Outcome::Progress { receipt: receipt_on(1) });
    peer.answer(id, Outcome::Unknown { index: 7, copies: 1 });
    let (code, _, stderr) = end(set);
    assert_eq!(code, Some(5), "{stderr}");
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
    let clients = ["sessions", "session_results", "watches", "history_first", "history_bytes"];
    assert!(clients.iter().all(|count| one["clients"][count].is_u64()), "{one}");
    assert_eq!((&one["clients"]["sessions"], &one["clients"]["watches"]), (&12.into(), &3.into()));
    assert_eq!((&one["elections"]["won"], &one["sent"]["append"]), (&2.into(), &1_234_567.into()));
}

#[test]
fn status_as_text_shows_elections_and_messages_and_fits_a_terminal() {
    let text = stdout(quorate(&store(), &["status"]).success());
    assert!(text.contains("elections since each node started") && text.contains("1234567/0"), "{text}");
    assert!(text.contains("what clients have of each node") && text.contains("sessions"), "{text}");
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

// --- watch -----------------------------------------------------------------------------------------------------

fn token(index: u64) -> Token {
    Token { term: 3, index }
}

fn changed<'a>(index: u64, key: &'a [u8], value: Option<&'a [u8]>) -> Change<'a> {
    Change { index, key, value: value.map(NewValue) }
}

/// Takes a watch, which begins behind entry 10, and says behind what it was to begin.
fn take_watch(server: &Fake) -> (Peer, u64, Option<u64>) {
    let mut peer = server.peer();
    let (id, after) = peer.request(|operation| match operation {
        Operation::Watch { after, .. } => after.map(|after| after.index),
        other => panic!("{other:?} is no watch"),
    });
    peer.answer(id, Outcome::Changes { through: token(10), changes: Vec::new() });
    (peer, id, after)
}

#[test]
fn a_watch_prints_sets_and_deletions_and_ends_after_so_many() {
    let server = Fake::start();
    let watch = start(&server.address, &["watch", "a", "--count", "3"]);
    let (mut peer, id, after) = take_watch(&server);
    assert_eq!(after, None);
    let changes = vec![changed(11, b"a\t", Some(b"x\xff")), changed(12, b"ab", None)];
    peer.answer(id, Outcome::Changes { through: token(12), changes });
    let changes = vec![changed(15, b"a", Some(b"")), changed(16, b"a", Some(b"not printed"))];
    peer.answer(id, Outcome::Changes { through: token(16), changes });
    let (code, stdout, stderr) = end(watch);
    assert_eq!((code, stdout.as_str()), (Some(0), "set\t11\ta\\t\tx\\xff\ndelete\t12\tab\nset\t15\ta\t\n"));
    assert_eq!(stderr, "quorate: what comes next is had with --after q1-3-f\n");
}

#[test]
fn a_watch_in_json_says_with_every_change_from_where_to_go_on() {
    let server = Fake::start();
    let arguments = ["watch", "--key", "a", "--after", "q1-3-a", "--format", "json", "--count", "3"];
    let watch = start(&server.address, &arguments);
    let (mut peer, id, after) = take_watch(&server);
    assert_eq!(after, Some(10));
    let changes = vec![
        changed(11, b"a", Some(b"x\xff")),
        changed(12, b"a", Some(b"1")),
        changed(12, b"a", None),
        changed(13, b"a", None),
    ];
    peer.answer(id, Outcome::Changes { through: token(20), changes });
    let (code, stdout, stderr) = end(watch);
    let lines = [
        r#"{"change":"set","index":11,"key":"a","token":"q1-3-b","value":null,"value_hex":"78ff"}"#,
        r#"{"change":"set","index":12,"key":"a","token":"q1-3-b","value":"1"}"#,
        r#"{"change":"delete","index":12,"key":"a","token":"q1-3-c","value":null}"#,
    ];
    assert_eq!((code, stdout), (Some(0), lines.join("\n") + "\n"));
    assert!(stderr.contains("--after q1-3-c"), "{stderr}");
}

#[test]
fn a_watch_that_is_interrupted_ends_well_and_says_where_it_was() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Fake::start();
        let mut watch = start(&server.address, &["watch"]);
        let (mut peer, id, _) = take_watch(&server);
        let changes = vec![changed(11, b"a", Some(b"1"))];
        peer.answer(id, Outcome::Changes { through: token(14), changes });
        let mut line = String::new();
        BufReader::new(watch.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "set\t11\ta\t1\n", "it is printed at once");
        kill_process(Pid::from_child(&watch), signal).unwrap();
        let (code, _, stderr) = end(watch);
        assert_eq!(
            (code, stderr.as_str()),
            (Some(0), "quorate: what comes next is had with --after q1-3-e\n")
        );
    }
}

#[test]
fn a_watch_whose_reader_is_gone_ends_although_nothing_changes() {
    let server = Fake::start();
    let mut watch = start(&server.address, &["watch"]);
    let _peer = take_watch(&server);
    drop(watch.stdout.take());
    let mut stderr = String::new();
    watch.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_watch_that_cannot_go_on_says_what_to_do() {
    let (lost, _refused) = always(Refusal::HistoryLost { after: 3, oldest: 7 });
    let error_of_lost = error(&quorate(&lost, &["watch", "--after", "q1-1-3"]).code(1));
    assert!(
        error_of_lost.contains("behind entry 7") && !error_of_lost.contains("--after"),
        "{error_of_lost}"
    );
    let mut watch = Command::new(env!("CARGO_BIN_EXE_quorate"));
    watch.args(["--servers", &nobody(), "--timeout", "300ms", "watch", "--after", "q1-1-3"]);
    let unreachable = error(&watch.assert().code(4));
    assert!(unreachable.contains("go on with --after q1-1-3"), "{unreachable}");
    quorate(&lost, &["watch", "--after", "7"]).code(2);
    quorate(&lost, &["watch", "a", "--key", "b"]).code(2);
    quorate(&lost, &["watch", "--count", "0"]).code(2);
    quorate(&lost, &["watch", "--key", ""]).code(2);
}

// --- export and import -----------------------------------------------------------------------------------------

/// Every byte, and what escapes might confuse.
fn every_byte() -> Vec<u8> {
    let every: Vec<u8> = (0..=255).collect();
    [&every[..], "\\x41 gr\u{85}ün\\".as_bytes()].concat()
}

#[test]
fn what_was_exported_is_imported_as_the_same_bytes() {
    let (from, to) = (store(), store());
    let key = OsStr::from_bytes(b"k\xff\t\\");
    let mut set = Command::new(env!("CARGO_BIN_EXE_quorate"));
    set.args(["--servers", &from, "set"]).arg(key).arg("-").write_stdin(every_byte()).assert().success();
    quorate(&from, &["set", "empty", ""]).success();
    quorate(&from, &["set", "k", "text"]).success();
    for format in ["text", "json"] {
        let export = quorate(&from, &["export", "--format", format]).success();
        assert!(error(&export).contains("3 keys; no snapshot"));
        let lines = export.get_output().stdout.clone();
        let imported = quorate_fed(&to, &["import", "--format", format], &lines[..]).success();
        let count = if format == "text" { "3 lines written, 0 skipped" } else { "\"written\":3" };
        assert!(stdout(imported).contains(count));
        quorate(&to, &["export", "--format", format]).success().stdout(lines);
        let mut get = Command::new(env!("CARGO_BIN_EXE_quorate"));
        let got = get.args(["--servers", &to, "get"]).arg(key).assert().success();
        got.stdout([every_byte(), b"\n".into()].concat());
        quorate(&to, &["delete", "k"]).success();
    }
    let export = quorate(&from, &["export", "k", "--format", "json"]).success();
    assert!(error(&export).contains("2 keys") && stdout(export).starts_with(r#"{"key":"k","value":"text"}"#));
}

#[test]
fn what_a_scan_printed_can_be_imported() {
    let (from, to) = (store(), store());
    quorate(&from, &["set", "a", "1"]).success();
    for format in ["text", "json"] {
        let lines = quorate(&from, &["scan", "--format", format]).success().get_output().stdout.clone();
        quorate_fed(&to, &["import", "--format", format], lines).success();
        quorate(&to, &["get", "a"]).success().stdout("1\n");
        quorate(&to, &["delete", "a"]).success();
    }
}

#[test]
fn an_import_of_many_lines_writes_each_and_the_later_of_two_with_one_key() {
    const LINES: usize = 20_000;
    const KEYS: usize = 7_000;
    let server = store();
    let mut lines = String::new();
    for line in 0..LINES {
        lines += &format!("key{:05}\t{line}\n", line % KEYS);
    }
    let imported = stdout(quorate_fed(&server, &["import"], lines.trim_end()).success());
    assert_eq!(imported, format!("{LINES} lines written, 0 skipped\n"));
    let export = stdout(quorate(&server, &["export"]).success());
    let expected: String = (0..KEYS)
        .map(|key| format!("key{key:05}\t{}\n", (0..LINES).rfind(|line| line % KEYS == key).unwrap()))
        .collect();
    assert!(export == expected, "the last of each key is there, and nothing else");
}

#[test]
fn an_import_stops_at_the_first_bad_line_or_skips_it() {
    let server = store();
    let lines = "a\t1\nb\t2\nno tab\nc\t3\n\td\ne\t\\q\n";
    let stopped = quorate_fed(&server, &["import"], lines).code(2).stdout("2 lines written, 0 skipped\n");
    let message = error(&stopped);
    assert!(message.contains("line 3: there is no tab") && message.contains("--skip-bad"), "{message}");
    quorate(&server, &["export"]).stdout("a\t1\nb\t2\n");
    let skipped = quorate_fed(&server, &["import", "--skip-bad"], lines).success();
    let said = String::from_utf8(skipped.get_output().stderr.clone()).unwrap();
    assert!(["line 3 ", "line 5 ", "line 6 "].iter().all(|line| said.contains(line)), "{said}");
    assert!(said.contains("a key must have at least one byte"), "{said}");
    assert_eq!(stdout(skipped), "3 lines written, 3 skipped\n");
    quorate(&server, &["export"]).stdout("a\t1\nb\t2\nc\t3\n");
    let long = [b"k\t".as_slice(), &vec![b'v'; 9 << 20], b"\nf\t4\n"].concat();
    let skipped = quorate_fed(&server, &["import", "--skip-bad"], long).success();
    assert_eq!(stdout(skipped), "1 lines written, 1 skipped\n");
}

#[test]
fn a_line_that_comes_alone_is_written_at_once() {
    let server = store();
    let mut import = start(&server, &["import"]);
    import.stdin.as_mut().unwrap().write_all(b"a\t1\n").unwrap();
    let mut found = false;
    for _ in 0..1000 {
        found = quorate(&server, &["get", "a"]).get_output().status.success();
        if found {
            break;
        }
    }
    assert!(found);
    assert_eq!(end(import).1, "1 lines written, 0 skipped\n");
}

#[test]
fn an_import_that_is_refused_says_which_lines_are_written() {
    let server = Fake::start();
    let mut import = start(&server.address, &["import", "--format", "json"]);
    let feed = |import: &mut Child, key: &str| {
        let line = format!("{{\"key\":\"{key}\",\"value_hex\":\"ff\"}}\n");
        import.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    };
    feed(&mut import, "a");
    let mut peer = server.peer();
    peer.open_session(1);
    let (id, session) = peer.write();
    assert_eq!(session.unwrap().sequence, 1, "it is written in a session");
    peer.answer(id, written(2));
    feed(&mut import, "b");
    for _ in 0..2 {
        let (id, _) = peer.write();
        peer.answer(id, Outcome::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
    }
    feed(&mut import, "c");
    drop(import.stdin.take());
    // It may have sent the third line before it saw the refusal; then it ends its session.
    while let Some(body) = peer.frame() {
        let request: Request<'_> = parse(&body).unwrap();
        peer.answer(request.id, written(3));
    }
    let (code, stdout, stderr) = end(import);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(
        stdout.contains("\"skipped\":0") && stderr.contains("the lines before line 2 are written"),
        "{stderr}"
    );
}

/// Under way, with one line that the server has been sent and has not answered: the write's id.
fn start_import(server: &Fake) -> (Child, Peer, u64) {
    let mut import = start(&server.address, &["import"]);
    import.stdin.as_mut().unwrap().write_all(b"a\t1\n").unwrap();
    let mut peer = server.peer();
    peer.open_session(1);
    let (id, _) = peer.write();
    (import, peer, id)
}

/// What it has said when it has ended, although its input has not.
fn end_by_itself(import: &mut Child) -> (Option<i32>, String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    import.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    import.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (import.wait().unwrap().code(), stdout, stderr)
}

#[test]
fn an_import_that_is_told_to_stop_says_what_is_written_and_where_to_go_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Fake::start();
        let (mut import, mut peer, id) = start_import(&server);
        kill_process(Pid::from_child(&import), signal).unwrap();
        peer.answer(id, written(2));
        let (id, ends_session) =
            peer.request(|operation| matches!(operation, Operation::CloseSession { session: 1 }));
        assert!(ends_session);
        peer.answer(id, written(3));
        let (code, stdout, stderr) = end_by_itself(&mut import);
        assert_eq!((code, stdout.as_str()), (Some(130), "1 lines written, 0 skipped\n"), "{stderr}");
        let said = "quorate: told to stop; the lines before line 2 are written: go on with that line\n";
        assert_eq!(stderr, said);
    }
}

#[test]
fn an_import_that_is_told_to_stop_twice_does_not_wait_for_what_is_in_flight() {
    let server = Fake::start();
    let (mut import, _peer, _unanswered) = start_import(&server);
    let began = Instant::now();
    // Two signals that come together may be one.
    while import.try_wait().unwrap().is_none() {
        kill_process(Pid::from_child(&import), Signal::INT).unwrap();
        assert!(began.elapsed() < DEADLINE, "it does not end");
        std::thread::yield_now();
    }
    let (code, stdout, stderr) = end_by_itself(&mut import);
    assert_eq!((code, stdout.as_str()), (Some(130), "0 lines written, 0 skipped\n"), "{stderr}");
    assert!(
        stderr.contains("the lines before line 1 are written, later ones may be: go on with"),
        "{stderr}"
    );
}

#[test]
fn an_import_whose_lines_are_refused_says_so_although_no_other_line_comes() {
    let server = Fake::start();
    let (mut import, mut peer, id) = start_import(&server);
    peer.answer(id, Outcome::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
    let id = peer.id();
    peer.answer(id, Outcome::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
    let id = peer.id();
    peer.answer(id, written(3));
    let (code, stdout, stderr) = end_by_itself(&mut import);
    assert_eq!((code, stdout.as_str()), (Some(4), "0 lines written, 0 skipped\n"), "{stderr}");
    assert!(stderr.contains("the lines before line 1 are written"), "{stderr}");
}

#[test]
fn an_import_whose_input_cannot_be_read_says_where_to_go_on() {
    let server = store();
    let directory = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut import = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"));
    let import = import.args(["--servers", &server, "import"]).stdin(directory).output().unwrap();
    let (code, stdout, stderr) = ended(import);
    assert_eq!((code, stdout.as_str()), (Some(1), "0 lines written, 0 skipped\n"), "{stderr}");
    assert!(stderr.contains("directory") && stderr.contains("before line 1 are written"), "{stderr}");
}

#[test]
fn a_carriage_return_before_the_newline_is_of_the_line_and_escaped_of_the_value() {
    let server = store();
    quorate_fed(&server, &["import"], "a\t1\r\nb\t2\\r\r\nc\tx\ry\nd\t\r\n").success();
    quorate(&server, &["export"]).success().stdout("a\t1\nb\t2\\r\nc\tx\\ry\nd\t\n");
    let json = "{\"key\":\"j\",\"value\":\"1\"}\r\n";
    quorate_fed(&server, &["import", "--format", "json"], json).success();
    quorate(&server, &["get", "j"]).success().stdout("1\n");
}

// --- acks and progress -----------------------------------------------------------------------------------------

/// The next request, which must be a write: its id, and whether it wants to be told so and at so many copies.
fn take_write(peer: &mut Peer, wanted: Acks, wants_progress: bool) -> u64 {
    let (id, options) = peer.request(|operation| match operation {
        Operation::Write { options, .. } => *options,
        other => panic!("{other:?} is no write"),
    });
    assert_eq!((options.acks, options.progress, options.session), (wanted, wants_progress, None));
    id
}

#[test]
fn a_write_at_fewer_copies_says_that_it_is_not_committed() {
    let server = Fake::start();
    let set = start(&server.address, &["set", "a", "1", "--acks", "1"]);
    let mut peer = server.peer();
    let id = take_write(&mut peer, Acks::Copies(1), false);
    peer.answer(id, Outcome::Stored { receipt: receipt_on(1) });
    let (code, stdout, _) = end(set);
    let said =
        "stored, not committed yet: index 7, fsync on nodes 1, may not survive a failover, 0 may be lost\n";
    assert_eq!((code, stdout.as_str()), (Some(0), said));
}

/// A receipt of so many copies, of which two are a quorum.
fn receipt_on(copies: u8) -> Receipt {
    Receipt {
        holders: (1..=copies).map(node).collect(),
        survives_failover: copies > 1,
        survivable_losses: copies - 1,
        ..receipt(7)
    }
}

#[test]
fn a_write_on_fewer_copies_than_were_asked_for_has_an_exit_code_of_its_own() {
    for (arguments, acks) in [
        (["delete", "a", "--acks", "3"].as_slice(), Acks::Copies(3)),
        (&["set", "a", "1", "--acks", "all"], Acks::All),
        (&["cas", "a", "1", "--revision", "absent", "--acks", "all"], Acks::All),
    ] {
        for copies in [2, 3] {
            let server = Fake::start();
            let write = start(&server.address, arguments);
            let mut peer = server.peer();
            let id = take_write(&mut peer, acks, false);
            let result = WriteResult::Applied { existed: 0 };
            peer.answer(id, Outcome::Written { receipt: receipt_on(copies), result });
            if acks == Acks::All {
                let (id, is_status) = peer.request(|operation| matches!(operation, Operation::Status { .. }));
                assert!(is_status, "who does not know m asks");
                peer.answer(id, fake::status());
            }
            let (code, stdout, stderr) = end(write);
            assert!(stdout.starts_with("done"), "{stdout}");
            assert_eq!(code, Some(if copies == 2 { 6 } else { 0 }), "{stderr}");
            assert_eq!(stderr.contains("known on 2 of the 3 replicas"), copies == 2, "{stderr}");
        }
    }
    for acks in ["0", "16", "most"] {
        quorate(&nobody(), &["set", "a", "1", "--acks", acks]).code(2);
    }
}

#[test]
fn progress_prints_every_copy_as_it_is_known_and_then_the_result() {
    for format in ["text", "json"] {
        let server = Fake::start();
        let mut set = start(&server.address, &["set", "a", "1", "--progress", "--format", format]);
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, value(1, b"0"));
        let id = take_write(&mut peer, Acks::Quorum, true);
        peer.answer(id, Outcome::Progress { receipt: receipt_on(1) });
        let mut out = BufReader::new(set.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        let words = ["1 copy after ", " ms: fsync on nodes 1, may not survive"];
        let fields = ["\"copies\":1", "\"elapsed_us\":"];
        let expected = if format == "text" { words } else { fields };
        assert!(expected.iter().all(|part| first.contains(part)), "{first}");
        let result = WriteResult::Applied { existed: 1 };
        peer.answer(id, Outcome::Written { receipt: receipt_on(3), result });
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        let expected = match format {
            "text" => ["3 copies after ", "done, the key was present: index 7"],
            _ => ["\"copies\":3", "\"applied\":true"],
        };
        assert!(expected.iter().all(|part| rest.contains(part)) && rest.lines().count() == 2, "{rest}");
        assert_eq!(end(set).0, Some(0));
    }
    quorate(&nobody(), &["set", "a", "1", "--progress", "--acks", "2"]).code(2);
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
    let (overloaded, _refused) = always(Refusal::Overloaded("too much".into()));
    brief(&overloaded, &["set", "a", "1"]).code(4);
    let (behind, _refused) = always(Refusal::Behind { applied: 3 });
    let behind = brief(&behind, &["get", "a", "--read", "session", "--token", "q1-1-4"]).code(4);
    assert!(error(&behind).contains("up to 3") && error(&behind).contains("--timeout"));
    let (lost, _refused) = always(Refusal::TokenLost);
    brief(&lost, &["get", "a", "--read", "session", "--token", "q1-1-4"]).code(1);
    let (full, _refused) = always(Refusal::Blocked(Obstacle::DiskFull));
    brief(&full, &["set", "a", "1"]).code(1);
    let silent = Fake::start();
    assert!(error(&brief(&silent.address, &["set", "a", "1"]).code(5)).contains("outcome is unknown"));
    brief(&gone, &["get"]).code(2);
    brief(&gone, &["get", ""]).code(2);
    let no_token = brief(&gone, &["get", "a", "--read", "session"]).code(2);
    assert!(String::from_utf8_lossy(&no_token.get_output().stderr).contains("--token"));
    for read in [["--read", "local"].as_slice(), &["--read", "linearizable"], &[]] {
        let unused = brief(&gone, &[&["get", "a", "--token", "q1-1-4"], read].concat()).code(2);
        assert!(error(&unused).contains("add --read session"), "a token is not passed over in silence");
    }
}

#[test]
fn servers_that_can_never_be_reached_are_wrong_use_and_named() {
    let from_flag = |servers: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(["--servers", servers, "get", "a"]).assert()
    };
    for wrong in ["no-port", "127.0.0.1:70000", ":7401", "a b:7401", "::1:7401", "a:0"] {
        for assert in [quorate(wrong, &["get", "a"]), from_flag(&format!("127.0.0.1:7401,{wrong}"))] {
            let text = String::from_utf8(assert.code(2).get_output().stderr.clone()).unwrap();
            assert!(text.contains(&format!("{wrong:?}")) && text.contains("HOST:PORT"), "{text}");
        }
    }
}

#[test]
fn spaces_in_the_list_of_servers_do_not_count() {
    let server = store();
    for list in [format!("{}, {server}", nobody()), format!(" {server} ,{}", nobody())] {
        quorate(&list, &["set", "a", "1"]).success();
    }
}

#[test]
fn it_tells_shells_and_man_about_itself_without_any_server() {
    let server = nobody();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = stdout(quorate(&server, &["completions", shell]).success());
        assert!(
            ["hand-over", "servers", "watch", "import", "acks"].iter().all(|word| text.contains(word)),
            "{shell}: {text}"
        );
    }
    let page = stdout(quorate(&server, &["man"]).success());
    assert!(page.contains(".TH quorate 1") && page.contains("QUORATE_SERVERS"), "{page}");
    assert!(
        (0..=6).chain([130]).all(|code| page.contains(&format!("\n  {code}  "))),
        "the exit codes: {page}"
    );
    let page = stdout(quorate(&server, &["man", "cas"]).success());
    assert!(page.contains(".TH quorate-cas 1") && page.contains("\\-\\-revision"), "{page}");
    for command in ["watch", "export", "import"] {
        let page = stdout(quorate(&server, &["man", command]).success());
        assert!(page.contains(&format!(".TH quorate-{command} 1")), "{page}");
    }
    let wrong = quorate(&server, &["man", "sett"]).code(2).stdout("");
    assert_eq!(error(&wrong), "quorate: there is no command \"sett\": --help lists them\n");
}
