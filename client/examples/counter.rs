//! Counts without losing a step, however many run at once: compare-and-set, and again if another was first.

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
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7401".into());
    smol::block_on(async {
        let client = Client::connect([server])?;
        for _ in 0..10 {
            println!("{}", increment(&client, "counter").await?);
        }
        client.close().await;
        Ok(())
    })
}
