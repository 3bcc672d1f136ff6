//! Writes and reads for three seconds, whoever leads. Kill the leader meanwhile, and it goes on:
//! `cargo run -p quorate-client --example hello -- 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403`

use quorate_client::blocking::Wait;
use quorate_client::{Client, Error};
use std::{env, thread::sleep, time::Duration};

fn main() -> Result<(), Error> {
    let servers = env::args().nth(1).unwrap_or("127.0.0.1:7401".into());
    let client = Client::connect(servers.split(','))?.with_deadline(Duration::from_secs(10));
    for i in 1..=30 {
        client.set("greeting", format!("hello {i}")).wait()?;
        let found = client.get("greeting").wait()?.value;
        println!("{}", String::from_utf8_lossy(&found.expect("it was just set").value));
        sleep(Duration::from_millis(100));
    }
    client.close().wait();
    Ok(())
}
