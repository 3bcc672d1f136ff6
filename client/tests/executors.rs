//! The client under other executors than smol's, and under none.

mod fake;

use std::time::Duration;

use fake::store;
use quorate_client::blocking::{Wait, iter};
use quorate_client::{Client, Error, WhenFull, prefix};

#[tokio::test]
async fn a_client_runs_under_tokio() {
    let (client, driver) = Client::builder().servers([store()]).build().unwrap();
    let driver = tokio::spawn(driver);
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.set(format!("key {number:02}"), "value").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!(client.get("key 49").await.unwrap().value.is_some());
    client.close().await;
    driver.await.unwrap();
}

#[test]
fn a_client_needs_no_executor() {
    let client = Client::connect([store()]).unwrap();
    for key in ["a", "b", "c"] {
        client.set(key, key).wait().unwrap();
    }
    let keys: Vec<_> = iter(client.scan(prefix(b""))).map(|item| item.unwrap().key).collect();
    assert_eq!(keys, [b"a", b"b", b"c"]);
    client.close().wait();
    assert_eq!(client.get("a").wait(), Err(Error::Closed));
}

#[test]
fn typed_keys_and_values_come_back_as_they_were() {
    let client = Client::connect([store()]).unwrap();
    let numbers = client.typed::<i32, i32>("number/");
    let names = client.typed::<String, (String, Option<u8>)>("name/");
    let value = ("text".to_owned(), Some(7));
    numbers.set(&-1, &i32::MAX).unwrap().wait().unwrap();
    names.set(&"key".to_owned(), &value).unwrap().wait().unwrap();
    assert_eq!(numbers.get(&-1).wait().unwrap().unwrap().value, i32::MAX);
    assert_eq!(numbers.get(&1).wait().unwrap(), None);
    let all: Vec<_> = iter(names.scan()).map(Result::unwrap).map(|(key, found)| (key, found.value)).collect();
    assert_eq!(all, [("key".to_owned(), value)]);
    // Of another type.
    let wrong = client.typed::<String, u8>("name/");
    assert!(matches!(wrong.get(&"key".to_owned()).wait(), Err(Error::Typed(_))));
}

#[test]
fn a_client_that_is_full_refuses_if_that_is_wanted() {
    let server = fake::Fake::with_in_flight_max(1);
    let builder = Client::builder().servers([&server.address]).when_full(WhenFull::Refuse);
    let client = builder.deadline(Duration::from_secs(10)).exactly_once(false).connect().unwrap();
    let script = std::thread::spawn(move || {
        let mut peer = server.peer();
        peer.pong(); // The server's bound is known now.
        let id = peer.id();
        (peer, id)
    });
    client.ping().wait().unwrap();
    let mut first = Box::pin(client.set("a", "1"));
    assert!(futures_lite::future::poll_once(first.as_mut()).wait().is_none());
    assert_eq!(client.set("b", "2").wait(), Err(Error::InFlight));
    let (mut peer, id) = script.join().unwrap();
    peer.answer(id, fake::written(1));
    first.wait().unwrap();
}
