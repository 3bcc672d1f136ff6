//! Typed keys and values, with what their untyped calls can be told, too.

mod fake;

use std::thread;
use std::time::Duration;

use fake::{Fake, Peer, store};
use futures_lite::future::block_on;
use quorate_client::blocking::{Wait, iter};
use quorate_client::{Acks, Client, Consistency, Error, Expected, SessionToken, TypedChange};
use quorate_protocol::request::{self, Operation, Token};
use quorate_protocol::response::{Change, NewValue, Outcome};

fn client(server: &Fake) -> Client {
    Client::builder().servers([&server.address]).exactly_once(false).connect().unwrap()
}

/// The next request, which must be a read; how fresh it is to be.
fn read(peer: &mut Peer) -> (u64, request::Consistency) {
    peer.request(|operation| match operation {
        Operation::Get { consistency, .. } | Operation::Scan { consistency, .. } => *consistency,
        other => panic!("{other:?} is no read"),
    })
}

#[test]
fn a_typed_read_is_as_fresh_and_takes_as_long_as_it_says() {
    let server = Fake::start();
    let client = client(&server).with_deadline(Duration::from_secs(3600));
    let numbers = client.typed::<u8, u8>("n/");
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, get) = read(&mut peer);
        peer.answer(id, Outcome::Value { token: Token::default(), value: None });
        let (id, scan) = read(&mut peer);
        peer.answer(id, Outcome::Page { token: Token::default(), items: Vec::new(), more: false });
        assert_eq!([get, scan], [request::Consistency::Local; 2]);
        (server, peer)
    });
    assert_eq!(block_on(numbers.get(&1).consistency(Consistency::Local)), Ok(None));
    assert_eq!(block_on(numbers.scan().consistency(Consistency::Local).next()), None);
    let _silent = script.join().unwrap();
    let brief = Duration::from_millis(150);
    assert_eq!(block_on(numbers.get(&1).deadline(brief)), Err(Error::Deadline));
    let mut scan = numbers.scan().items_per_page(2).deadline(brief);
    assert_eq!(block_on(scan.next()), Some(Err(Error::Deadline)));
}

/// A key that cannot be encoded.
struct Odd;

impl serde::Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("odd"))
    }
}

#[test]
fn a_key_that_cannot_be_encoded_is_an_error_of_its_call() {
    let client = Client::connect([store()]).unwrap();
    let odd = client.typed::<Odd, u8>("odd/");
    assert!(matches!(odd.get(&Odd).deadline(Duration::from_secs(1)).wait(), Err(Error::Typed(_))));
    assert!(matches!(odd.set(&Odd, &1), Err(Error::Typed(_))));
    assert!(matches!(odd.watch_key(&Odd), Err(Error::Typed(_))));
}

#[test]
fn a_typed_watch_tells_changes_of_its_types_and_goes_on_behind_others() {
    let server = Fake::start();
    let client = client(&server);
    let names = client.typed::<u8, String>("n/");
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, after) = peer.request(|operation| match operation {
            Operation::Watch { range, after } if range.start == b"n/" => *after,
            other => panic!("{other:?} is no watch of the part"),
        });
        let through = |index| Token { term: 3, index };
        assert_eq!(after, Some(through(10)));
        let change =
            |index, key, value: Option<&'static [u8]>| Change { index, key, value: value.map(NewValue) };
        peer.answer(id, Outcome::Changes { through: through(10), changes: Vec::new() });
        let changes = vec![
            change(11, b"n/\x07", Some(b"\x05seven")),
            change(12, b"n/\x08", Some(b"\x05no")),
            change(13, b"n/\x07", None),
        ];
        peer.answer(id, Outcome::Changes { through: through(13), changes });
        peer
    });
    let mut watch = names.watch().after("q1-3-a".parse().unwrap());
    let mut next = || block_on(watch.next()).unwrap();
    assert_eq!(next(), Ok(TypedChange { index: 11, key: 7, value: Some("seven".to_owned()) }));
    assert!(matches!(next(), Err(Error::Typed(_))));
    assert_eq!(next(), Ok(TypedChange { index: 13, key: 7, value: None }));
    assert_eq!(watch.token().map(SessionToken::index), Some(13));
    script.join().unwrap();
}

#[test]
fn writes_of_several_parts_are_done_together_or_not_at_all() {
    let client = Client::connect([store()]).unwrap();
    let (names, ages) = (client.typed::<u8, String>("name/"), client.typed::<u8, u8>("age/"));
    let name = |key, name: &str| names.set(&key, &name.to_owned()).unwrap();
    client.batch_of([name(1, "Ada"), ages.set(&1, &36).unwrap(), client.set("count", "1")]).wait().unwrap();
    let found = names.get(&1).wait().unwrap().unwrap();
    assert_eq!((found.value.as_str(), ages.get(&1).wait().unwrap().unwrap().value), ("Ada", 36));

    let taken = ages.compare_and_set(&1, Expected::Absent, &40).unwrap();
    let written = client.batch_of([names.delete(&1).unwrap(), taken]).acks(Acks::All).wait().unwrap();
    assert!(!written.applied());
    let all: Vec<_> = iter(names.scan()).map(|item| item.unwrap().1.value).collect();
    assert_eq!(all, ["Ada"]);
}
