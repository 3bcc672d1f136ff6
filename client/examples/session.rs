//! A session goes from one process to another: what the first wrote the second reads, whichever replica it asks.
//!
//! ```sh
//! export SERVERS=127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403
//! token=$(cargo run -p quorate-client --example session -- $SERVERS write hello)
//! cargo run -p quorate-client --example session -- $SERVERS read "$token"
//! ```
//!
//! The token is a few bytes of text. It can be a command's argument, a cookie, or a message's header.

use std::env;

use quorate_client::blocking::Wait;
use quorate_client::{Client, Consistency, Error, ReadFrom, SessionToken};

fn write(servers: &str, value: &str) -> Result<SessionToken, Error> {
    let client = Client::connect(servers.split(','))?;
    client.set("session/value", value).wait()?;
    let token = client.session_token();
    client.close().wait();
    Ok(token)
}

fn read(servers: &str, token: SessionToken) -> Result<String, Error> {
    let builder = Client::builder().servers(servers.split(',')).session_token(token);
    // Any replica may answer, in turn: one that has not seen the write yet waits, or another is asked.
    let client = builder.consistency(Consistency::Session).read_from(ReadFrom::Spread).connect()?;
    let found = client.get("session/value").wait()?.value;
    Ok(found.map_or("nothing".into(), |found| String::from_utf8_lossy(&found.value).into()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [servers, "write", value] => println!("{}", write(servers, value)?),
        [servers, "read", token] => println!("{}", read(servers, token.parse()?)?),
        _ => return Err("usage: session SERVERS write VALUE | read TOKEN".into()),
    }
    Ok(())
}
