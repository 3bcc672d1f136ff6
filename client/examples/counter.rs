//! Counts without losing or doubling a step, however many do it at once, and whoever leads meanwhile:
//! `cargo run -p quorate-client --example counter -- 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 10`
//!
//! Compare-and-set, and again if somebody else was first. A step whose answer is lost with its leader is sent again by the
//! client, and gets its first result: it is not mistaken for somebody else's.

use std::env;
use std::time::Duration;

use quorate_client::{Client, Error, Expected};

async fn increment(client: &Client, key: &str) -> Result<u64, Error> {
    loop {
        let (count, expected) = match client.get(key).await?.value {
            None => (0, Expected::Absent),
            Some(found) => {
                let count = String::from_utf8_lossy(&found.value).parse().unwrap_or(0);
                (count, Expected::Revision(found.revision))
            }
        };
        // An unknown outcome ends this with its error: trying again might count twice.
        let next: u64 = count + 1;
        if client.compare_and_set(key, expected, next.to_string()).await?.applied() {
            return Ok(next);
        }
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1);
    let servers = arguments.next().unwrap_or_else(|| "127.0.0.1:7401".into());
    let steps: u32 = arguments.next().and_then(|steps| steps.parse().ok()).unwrap_or(10);
    smol::block_on(async {
        let client = Client::connect(servers.split(','))?.with_deadline(Duration::from_secs(10));
        for _ in 0..steps {
            println!("{}", increment(&client, "counter").await?);
        }
        client.close().await;
        Ok(())
    })
}
