//! Writes a key and reads it: `cargo run -p quorate-client --example hello -- 127.0.0.1:7401`.

use quorate_client::{Client, Error};

fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7401".into());
    smol::block_on(async {
        let client = Client::connect([server])?;
        let written = client.set("greeting", "hello").await?;
        println!("revision {}, on {} replicas", written.revision(), written.receipt.holders.len());
        if let Some(found) = client.get("greeting").await?.value {
            println!("{}", String::from_utf8_lossy(&found.value));
        }
        client.close().await;
        Ok(())
    })
}
