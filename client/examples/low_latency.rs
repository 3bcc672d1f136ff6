//! Writes that are answered as soon as one disk has them, and a look later whether they were kept.
//!
//! ```sh
//! export SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! cargo run --release -p quorate-client --example low_latency -- $SERVERS write
//! cargo run --release -p quorate-client --example low_latency -- $SERVERS check TOKEN
//! ```
//!
//! With `acks(1)` a write is answered before it is committed: the next leader may not have it. It is kept if the log
//! has an entry of its term at its index, which is what its token says; a session read with the token asks for that.
//! Everything that the same leader has written before is then kept, too: so one look at the last write is enough.

use std::env;
use std::time::{Duration, Instant};

use quorate_client::{Acks, Client, Consistency, Error, Refusal, SessionToken};

const KEY: &str = "low-latency";

/// Writes one after the other; the median of how long each took, and the token of the last.
async fn write(client: &Client, acks: Acks) -> Result<(Duration, SessionToken), Error> {
    let mut took = Vec::new();
    let mut last = SessionToken::default();
    for i in 0..200 {
        let began = Instant::now();
        last = client.set(KEY, i.to_string()).acks(acks).await?.token();
        took.push(began.elapsed());
    }
    took.sort();
    Ok((took[took.len() / 2], last))
}

/// Whether the write with this token was kept. Waits until that is known, which it is when a leader has committed it or
/// something else in its place.
async fn is_kept(servers: &str, token: SessionToken) -> Result<bool, Error> {
    let builder = Client::builder().servers(servers.split(',')).deadline(Duration::from_secs(10));
    let client = builder.session_token(token).consistency(Consistency::Session).connect()?;
    match client.get(KEY).await {
        Ok(_) => Ok(true),
        Err(Error::Refused(Refusal::TokenLost)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn run(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match arguments {
        [servers, "write"] => {
            let client = Client::connect(servers.split(','))?;
            let (safe, _) = write(&client, Acks::Quorum).await?;
            let (quick, token) = write(&client, Acks::Copies(1)).await?;
            println!("half of the writes within {safe:?} at a quorum, {quick:?} at one copy");
            println!("{token}");
            client.close().await;
        }
        [servers, "check", token] => match is_kept(servers, token.parse()?).await? {
            true => println!("kept, like everything before it"),
            false => println!("lost: a failover has dropped it"),
        },
        _ => return Err("usage: low_latency SERVERS write | check TOKEN".into()),
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    smol::block_on(run(&arguments))
}
