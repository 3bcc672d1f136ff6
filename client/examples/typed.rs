//! Keys and values that are numbers or text, as the store began with, or of any other serde type:
//! `cargo run -p quorate-client --example typed -- 127.0.0.1:7401`

use std::env;

use quorate_client::blocking::{Wait, iter};
use quorate_client::{Client, Error, Expected};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Debug)]
struct Account {
    owner: String,
    cents: i64,
}

fn main() -> Result<(), Error> {
    let servers = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7401".into());
    let client = Client::connect(servers.split(','))?;

    // Each part has a prefix of its own, so that the same key is another one in each.
    let names = client.typed::<i32, String>("names/");
    names.set(&7, &"seven".into())?.wait()?;
    names.set(&-1, &"minus one".into())?.wait()?;
    let numbers = client.typed::<String, i32>("numbers/");
    numbers.set(&"seven".into(), &7)?.wait()?;
    println!("7 is {:?}", names.get(&7).wait()?.map(|found| found.value));
    println!("seven is {:?}", numbers.get(&"seven".into()).wait()?.map(|found| found.value));

    let accounts = client.typed::<u64, Account>("accounts/");
    accounts.set(&1, &Account { owner: "Ada".into(), cents: 1000 })?.wait()?;
    if let Some(found) = accounts.get(&1).wait()? {
        let paid = Account { cents: found.value.cents - 250, ..found.value };
        let written = accounts.compare_and_set(&1, Expected::Revision(found.revision), &paid)?.wait()?;
        println!("paid: {}", written.applied());
    }
    for item in iter(accounts.scan()) {
        let (number, found) = item?;
        println!("account {number}: {:?}", found.value);
    }

    names.delete(&-1)?.wait()?;
    println!("-1 is {:?}", names.get(&-1).wait()?.map(|found| found.value));
    client.close().wait();
    Ok(())
}
