//! The client of `.ci/power-cut`: writes, says outside of the server's disk what was acknowledged, and checks
//! later that a server has all of it and nothing else.
//!
//! ```sh
//! power_cut_client write HOST:PORT[,HOST:PORT…] ACKNOWLEDGED PAUSE-MS
//! power_cut_client check HOST:PORT[,HOST:PORT…] ACKNOWLEDGED
//! ```
//!
//! Each of [`WRITERS`] writers has one write open at a time, and pauses between two for up to PAUSE-MS
//! milliseconds. They are numbered from 0, and go to the writer's keys in turn. After an acknowledgement, and before the next write, the line `WRITER NUMBER` goes to the file
//! ACKNOWLEDGED. So of a writer whose last line says i, a store holds everything up to i, perhaps i + 1, and
//! never more. What a write wrote follows from writer and number.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use quorate_client::{Client, ErrorKind, KeyValue, Range, RangeEnd};
use smol::Timer;

const WRITERS: u64 = 32;

/// Of each writer: a write that is lost stays visible until its key's turn comes again.
const KEYS: u64 = 8;

const VALUE_BYTES_MAX: usize = 6000;

/// Of one call, which has to wait while the server is stopped and its disk is copied.
const CALL: Duration = Duration::from_secs(600);

const RETRY_PAUSE: Duration = Duration::from_millis(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn key(writer: u64, number: u64) -> String {
    format!("{writer}/{}", number % KEYS)
}

fn value(writer: u64, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((writer << 40) ^ number);
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + random.usize(..VALUE_BYTES_MAX), 0);
    random.fill(&mut value[8..]);
    value
}

/// Writes for as long as it is let. An error if an outcome is unknown: then nothing can be said any more.
async fn write(
    client: &Client,
    writer: u64,
    acknowledged: &File,
    pause_max: Duration,
) -> Result<(), Failure> {
    for number in 0.. {
        if !pause_max.is_zero() {
            Timer::after(pause_max.mul_f64(fastrand::f64())).await;
        }
        while let Err(error) = client.set(key(writer, number), value(writer, number)).await {
            if error.kind() != ErrorKind::Retryable {
                return Err(error.into());
            }
            Timer::after(RETRY_PAUSE).await;
        }
        let line = format!("{writer} {number}\n");
        let mut file = acknowledged; // opened for appending: a line is written as a whole
        file.write_all(line.as_bytes())?;
    }
    Ok(())
}

async fn write_all(client: Client, acknowledged: &str, pause_max: Duration) -> Result<(), Failure> {
    let file = OpenOptions::new().create(true).append(true).open(acknowledged)?;
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> =
        (0..WRITERS).map(|writer| executor.spawn(write(&client, writer, &file, pause_max))).collect();
    executor
        .run(async {
            for task in tasks {
                task.await?;
            }
            Ok(())
        })
        .await
}

/// The last number of each writer in the file, and how many writes that is in all.
fn read_acknowledged(file: &str) -> Result<(BTreeMap<u64, u64>, u64), Failure> {
    let (mut last, mut count) = (BTreeMap::new(), 0);
    for line in fs::read_to_string(file)?.lines() {
        let (writer, number) = line.split_once(' ').ok_or("a line without a number")?;
        last.insert(writer.parse()?, number.parse()?);
        count += 1;
    }
    Ok((last, count))
}

/// What a check found.
#[derive(Default)]
struct Found {
    lost: u64,
    unexplained: u64,
    first: Option<String>,
}

impl Found {
    fn judge(&mut self, key: &str, writer: u64, slot: u64, last: Option<u64>, stored: Option<&[u8]>) {
        let of_slot = |number: &u64| number % KEYS == slot;
        let newest = last.and_then(|last| (last.saturating_sub(KEYS - 1)..=last).rev().find(of_slot));
        let next = Some(last.map_or(0, |last| last + 1)).filter(of_slot);
        let explains = |number: Option<u64>| match (number, stored) {
            (Some(number), Some(stored)) => value(writer, number) == stored,
            _ => false,
        };
        let is_right = explains(newest) || explains(next) || (newest.is_none() && stored.is_none());
        if is_right {
            return;
        }
        let number = stored.and_then(|stored| Some(u64::from_le_bytes(*stored.first_chunk()?)));
        let is_older = newest.is_some() && number.is_none_or(|number| Some(number) < newest);
        *(if is_older { &mut self.lost } else { &mut self.unexplained }) += 1;
        self.first.get_or_insert(format!("key {key}: acknowledged {newest:?}, stored {number:?}"));
    }
}

async fn read_all(client: &Client) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
    let mut stored = BTreeMap::new();
    let mut scan = client.scan(Range { start: b"", end: RangeEnd::Open }).items_per_page(100);
    while let Some(page) = scan.next_page().await {
        stored.extend(page?.items.into_iter().map(|KeyValue { key, value, .. }| (key, value)));
    }
    Ok(stored)
}

/// Whether all is as it must be.
async fn check(client: Client, acknowledged: &str) -> Result<bool, Failure> {
    let (last, count) = read_acknowledged(acknowledged)?;
    let mut stored = read_all(&client).await?;
    let mut found = Found::default();
    for writer in 0..WRITERS {
        for slot in 0..KEYS {
            let key = key(writer, slot);
            let stored = stored.remove(key.as_bytes());
            found.judge(&key, writer, slot, last.get(&writer).copied(), stored.as_deref());
        }
    }
    found.unexplained += stored.len() as u64; // nobody writes other keys
    println!("acknowledged {count} lost {} unexplained {}", found.lost, found.unexplained);
    if let Some(first) = &found.first {
        println!("{first}");
    }
    Ok(found.lost + found.unexplained == 0)
}

fn run(arguments: &[String]) -> Result<bool, Failure> {
    let arguments: Vec<_> = arguments.iter().skip(1).map(String::as_str).collect();
    let connect = |servers: &str| Client::builder().servers(servers.split(',')).deadline(CALL).connect();
    match arguments[..] {
        ["write", servers, acknowledged, pause_ms] => {
            let pause_max = Duration::from_millis(pause_ms.parse()?);
            smol::block_on(write_all(connect(servers)?, acknowledged, pause_max)).map(|()| true)
        }
        ["check", servers, acknowledged] => smol::block_on(check(connect(servers)?, acknowledged)),
        _ => {
            Err("usage: power_cut_client write SERVERS ACKNOWLEDGED PAUSE-MS | check SERVERS ACKNOWLEDGED"
                .into())
        }
    }
}

/// 0 if all is well, 1 if something is lost or cannot be explained, 2 if that could not be found out.
fn main() -> ExitCode {
    match run(&std::env::args().collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("power_cut_client: {error}");
            ExitCode::from(2)
        }
    }
}
