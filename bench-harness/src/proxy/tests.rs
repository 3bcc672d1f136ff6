//! A proxy between two ordinary sockets. Lower bounds on times hold by construction; upper ones are not
//! asserted.

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(30);

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A link from node 1 to node 2, which is a bare listener.
struct Fixture {
    proxy: Proxy,
    link: Link,
    target: TcpListener,
}

impl Fixture {
    fn start() -> Self {
        let proxy = Proxy::start(2026).unwrap();
        let target = TcpListener::bind(ANY_PORT).unwrap();
        target.set_nonblocking(true).unwrap();
        let link = proxy.add_link(1, 2, ANY_PORT.into(), target.local_addr().unwrap()).unwrap();
        Self { proxy, link, target }
    }

    fn with(settings: &str) -> Self {
        let fixture = Self::start();
        fixture.proxy.set(1, 2, settings.parse().unwrap()).unwrap();
        fixture
    }

    fn dial(&self) -> TcpStream {
        patient(TcpStream::connect(self.link.address()).unwrap())
    }

    fn accept(&self) -> TcpStream {
        let stream = wait_for("a connection at the target", || self.target.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        patient(stream)
    }

    /// Both ends of a connection through the link.
    fn connect(&self) -> (TcpStream, TcpStream) {
        (self.dial(), self.accept())
    }

    fn there(&self) -> Traffic {
        self.proxy.traffic(1, 2).unwrap()
    }

    fn wait_for_waiting(&self, bytes: u64) {
        wait_for("bytes that wait in the proxy", || (self.there().waiting_bytes == bytes).then_some(()));
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn receive<const BYTES: usize>(stream: &mut TcpStream) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn is_shared_by_threads<T: Send + Sync>(_: &T) {}

#[test]
fn bytes_go_both_ways_and_are_counted_with_their_direction() {
    let fixture = Fixture::start();
    is_shared_by_threads(&fixture.proxy);
    let (mut dialler, mut target) = fixture.connect();
    dialler.write_all(b"hello").unwrap();
    assert_eq!(&receive::<5>(&mut target), b"hello");
    target.write_all(b"welcome").unwrap();
    assert_eq!(&receive::<7>(&mut dialler), b"welcome");
    assert_eq!(fixture.there(), Traffic { forwarded_bytes: 5, waiting_bytes: 0 });
    assert_eq!(fixture.proxy.traffic(2, 1).unwrap(), Traffic { forwarded_bytes: 7, waiting_bytes: 0 });
}

#[test]
fn a_byte_takes_at_least_the_delay_of_its_direction() {
    let fixture = Fixture::with("20ms");
    let (mut dialler, mut target) = fixture.connect();
    for _ in 0..5 {
        let sent = Instant::now();
        dialler.write_all(b"x").unwrap();
        receive::<1>(&mut target);
        assert!(sent.elapsed() >= Duration::from_millis(20), "{:?}", sent.elapsed());
    }
    fixture.proxy.set(2, 1, LinkSettings::delay(Duration::from_millis(30))).unwrap();
    let sent = Instant::now();
    dialler.write_all(b"x").unwrap();
    receive::<1>(&mut target);
    target.write_all(b"x").unwrap();
    receive::<1>(&mut dialler);
    assert!(sent.elapsed() >= Duration::from_millis(50), "{:?}", sent.elapsed());
}

#[test]
fn jitter_keeps_the_order_of_bytes() {
    let fixture = Fixture::with("5ms±5ms");
    let (mut dialler, mut target) = fixture.connect();
    let sender = thread::spawn(move || {
        for number in 0..2000_u32 {
            dialler.write_all(&number.to_le_bytes()).unwrap();
        }
    });
    for number in 0..2000 {
        assert_eq!(u32::from_le_bytes(receive(&mut target)), number);
    }
    sender.join().unwrap();
}

#[test]
fn bytes_take_at_least_their_time_at_the_rate() {
    let fixture = Fixture::with("1MB/s");
    let (mut dialler, mut target) = fixture.connect();
    let sent = Instant::now();
    dialler.write_all(&[7; 100_000]).unwrap();
    receive::<100_000>(&mut target);
    assert!(sent.elapsed() >= Duration::from_millis(100), "{:?}", sent.elapsed());
    // A faster rate holds at once.
    fixture.proxy.set(1, 2, LinkSettings::default()).unwrap();
    dialler.write_all(&[7; 100_000]).unwrap();
    receive::<100_000>(&mut target);
    assert_eq!(fixture.there().forwarded_bytes, 200_000);
}

#[test]
fn connections_of_one_direction_share_its_rate() {
    let fixture = Fixture::with("1MB/s");
    let (mut first, mut first_target) = fixture.connect();
    let (mut second, mut second_target) = fixture.connect();
    let sent = Instant::now();
    first.write_all(&[7; 50_000]).unwrap();
    second.write_all(&[7; 50_000]).unwrap();
    receive::<50_000>(&mut first_target);
    receive::<50_000>(&mut second_target);
    assert!(sent.elapsed() >= Duration::from_millis(100), "{:?}", sent.elapsed());
}

#[test]
fn a_cut_holds_bytes_and_healing_lets_them_flow() {
    let fixture = Fixture::start();
    let (mut dialler, mut target) = fixture.connect();
    dialler.write_all(b"before").unwrap();
    receive::<6>(&mut target);
    fixture.proxy.cut(1, 2).unwrap();
    dialler.write_all(b"meanwhile").unwrap();
    fixture.wait_for_waiting(9);
    assert_eq!(fixture.there().forwarded_bytes, 6);
    // The other way is not cut.
    target.write_all(b"answer").unwrap();
    receive::<6>(&mut dialler);
    assert_eq!(fixture.there(), Traffic { forwarded_bytes: 6, waiting_bytes: 9 });
    fixture.proxy.heal(1, 2).unwrap();
    assert_eq!(&receive::<9>(&mut target), b"meanwhile");
    assert_eq!(fixture.there(), Traffic { forwarded_bytes: 15, waiting_bytes: 0 });
}

#[test]
fn a_connection_that_is_closed_during_a_cut_ends_when_it_is_healed() {
    let fixture = Fixture::start();
    let (mut dialler, mut target) = fixture.connect();
    fixture.proxy.cut(1, 2).unwrap();
    dialler.write_all(b"last words").unwrap();
    drop(dialler);
    fixture.wait_for_waiting(10);
    target.set_nonblocking(true).unwrap();
    assert_eq!(target.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "its end came through");
    target.set_nonblocking(false).unwrap();
    fixture.proxy.heal_all();
    let mut words = String::new();
    target.read_to_string(&mut words).unwrap();
    assert_eq!(words, "last words");
}

#[test]
fn a_new_connection_is_starved_while_either_way_is_cut() {
    for (from, to) in [(1, 2), (2, 1)] {
        let fixture = Fixture::start();
        fixture.proxy.cut(from, to).unwrap();
        let mut dialler = fixture.dial();
        dialler.write_all(b"hello").unwrap();
        fixture.wait_for_waiting(5);
        assert_eq!(fixture.target.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        fixture.proxy.heal(from, to).unwrap();
        assert_eq!(&receive::<5>(&mut fixture.accept()), b"hello");
    }
}

#[test]
fn a_connection_that_was_given_up_during_a_cut_never_comes_to_the_target() {
    let fixture = Fixture::start();
    fixture.proxy.cut(1, 2).unwrap();
    let mut given_up = fixture.dial();
    given_up.write_all(b"first").unwrap();
    fixture.wait_for_waiting(5);
    drop(given_up);
    fixture.wait_for_waiting(0);
    let mut kept = fixture.dial();
    kept.write_all(b"second").unwrap();
    fixture.proxy.heal(1, 2).unwrap();
    assert_eq!(&receive::<6>(&mut fixture.accept()), b"second");
}

#[test]
fn an_end_is_passed_on_in_each_direction_by_itself() {
    let fixture = Fixture::with("5ms");
    let (mut dialler, mut target) = fixture.connect();
    dialler.write_all(b"all").unwrap();
    dialler.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    target.read_to_string(&mut all).unwrap();
    target.write_all(b"thanks").unwrap();
    drop(target);
    let mut thanks = String::new();
    dialler.read_to_string(&mut thanks).unwrap();
    assert_eq!((all.as_str(), thanks.as_str()), ("all", "thanks"));
}

#[test]
fn a_target_that_is_not_there_ends_the_connection() {
    let fixture = Fixture::start();
    let Fixture { proxy: _proxy, link, target } = fixture;
    drop(target);
    let mut dialler = patient(TcpStream::connect(link.address()).unwrap());
    let ended = dialler.read(&mut [0]);
    assert!(matches!(&ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

/// Writes until the socket takes no more for a while, and says how much it took.
fn write_until_full(stream: &mut TcpStream, is_full: impl Fn() -> bool) -> u64 {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    loop {
        match stream.write(&[7; 64 << 10]) {
            Ok(bytes) => written += bytes as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock && is_full() => return written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_waits_is_bounded_and_the_sender_blocks() {
    let fixture = Fixture::start();
    let (mut dialler, mut target) = fixture.connect();
    fixture.proxy.cut(1, 2).unwrap();
    let is_full = || fixture.there().waiting_bytes >= WAITING_BYTES_MAX as u64;
    let written = write_until_full(&mut dialler, is_full);
    let waiting = fixture.there().waiting_bytes;
    let chunk_bytes = direction::CHUNK_BYTES_MAX as u64;
    assert!(waiting < WAITING_BYTES_MAX as u64 + chunk_bytes, "{waiting} bytes wait");
    dialler.set_nonblocking(false).unwrap();
    fixture.proxy.heal(1, 2).unwrap();
    drop(dialler);
    let mut all = Vec::new();
    target.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() as u64, written);
    assert_eq!(fixture.there(), Traffic { forwarded_bytes: written, waiting_bytes: 0 });
}

#[test]
fn a_dropped_proxy_has_closed_everything() {
    let Fixture { proxy, link, target } = Fixture::start();
    let mut dialler = patient(TcpStream::connect(link.address()).unwrap());
    let (accepted, _) = wait_for("a connection at the target", || target.accept().ok());
    accepted.set_nonblocking(false).unwrap();
    let mut accepted = patient(accepted);
    drop(proxy);
    assert!(matches!(dialler.read(&mut [0]), Ok(0)));
    assert!(matches!(accepted.read(&mut [0]), Ok(0)));
    assert_eq!(TcpStream::connect(link.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn wrong_settings_and_unknown_links_are_refused_with_the_reason() {
    let fixture = Fixture::start();
    let wrong = LinkSettings { jitter: Duration::from_millis(1), ..LinkSettings::default() };
    let refused = fixture.proxy.set(1, 2, wrong).unwrap_err().to_string();
    assert!(refused.contains("the jitter 1ms is longer than the delay 0s"), "{refused}");
    let refused = fixture.proxy.cut(1, 3).unwrap_err().to_string();
    assert_eq!(refused, "the proxy has no link between nodes 1 and 3: add it first");
    let taken = fixture.proxy.add_link(1, 3, fixture.link.address(), fixture.link.address());
    let refused = format!("{:#}", taken.unwrap_err());
    assert!(refused.starts_with("the proxy cannot listen on 127.0.0.1:"), "{refused}");
}
