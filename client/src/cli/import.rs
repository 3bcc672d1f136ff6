//! `quorate import`: lines become keys, many at a time.
//!
//! Lines that are there at once are written together, as one batch, and several batches are in flight: so a file is
//! written as fast as the cluster takes it, and a line that comes alone is written at once. They are written in one
//! session, so a batch that may have been written is sent again until that is known.
//!
//! # Invariants
//!
//! - Of two lines with the same key the later one wins: a batch waits until nothing in flight has a key of it.
//! - When it stops, all lines before the one that it names are written, or were skipped.
//! - In flight are at most [`FLIGHTS_MAX`] batches, and no more once they hold [`FLIGHT_BYTES`].
//!
//! # Omissions
//!
//! While no line comes, nobody looks whether what is in flight was written: an error is told with the next line.

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};

use quorate_protocol::request;
use smol::Task;

use super::arguments::Format;
use super::exit::{Exit, Failure, exit_of, say};
use super::lines::{self, Pair};
use super::output;
use crate::{Client, Error, Written};

/// Lines of a batch.
const BATCH_LINES_MAX: usize = 256;

/// Bytes of keys and values of a batch, unless one line has more.
const BATCH_BYTES_MAX: usize = 128 << 10;

/// Batches in flight.
const FLIGHTS_MAX: usize = 64;

/// Bytes of keys and values in flight beyond which no other batch is sent.
const FLIGHT_BYTES: usize = 8 << 20;

/// Bytes of a line: more than the largest key and value take, however they are escaped.
const LINE_BYTES_MAX: usize = 8 << 20;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// Reads lines until the input ends, a line cannot be read, or a batch cannot be written.
pub(super) async fn run(
    client: &Client,
    skip_bad: bool,
    format: Format,
    input: impl Read,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut lines = Lines { input: BufReader::with_capacity(READ_BYTES, input), number: 0 };
    let mut import = Import::new(client);
    let mut skipped = 0;
    let mut bad = Ok(());
    while import.failed.is_none() {
        if !lines.has_another() {
            import.send().await;
        }
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                bad = Err(error.into());
                break;
            }
        };
        match line.and_then(|line| pair(format, &line)) {
            Ok(pair) => import.add(lines.number, pair).await,
            Err(reason) if skip_bad => {
                say(&format!("line {} is skipped: {reason}", lines.number));
                skipped += 1;
            }
            Err(reason) => {
                bad = Err(bad_line(lines.number, &reason));
                break;
            }
        }
    }
    import.finish().await;
    client.close().await;
    output::imported(out, format, import.written, skipped, client.session_token())?;
    match import.failed {
        Some((first, error)) => Err(not_written(first, error)),
        None => bad,
    }
}

fn bad_line(number: u64, reason: &str) -> Failure {
    let message = format!(
        "line {number}: {reason}; the lines before it are written: put it right and go on with it, or --skip-bad"
    );
    Failure::new(Exit::WrongUse, message)
}

fn not_written(first: u64, error: Error) -> Failure {
    let message = format!(
        "{error}; the lines before line {first} are written, later ones may be: go on with that line"
    );
    Failure::new(exit_of(&error), message)
}

/// What a line says, if it can be written.
fn pair(format: Format, line: &[u8]) -> Result<Pair, String> {
    let pair = lines::parse(format, line)?;
    request::Write::One(pair.set()).check().map_err(|error| error.to_string())?;
    Ok(pair)
}

/// The lines of the input.
struct Lines<R> {
    input: BufReader<R>,
    /// Of the last one, counted from 1.
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Whether a whole line was read already, so that the next one is had without waiting.
    fn has_another(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    /// The next line, without its newline; none at the end. The inner error says what is wrong with it.
    fn next(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LINE_BYTES_MAX {
            self.input.skip_until(b'\n')?;
            return Ok(Some(Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))));
        }
        Ok(Some(Ok(line)))
    }
}

/// Lines that are written together.
#[derive(Default)]
struct Batch {
    /// The number of the first one.
    first: u64,
    pairs: Vec<Pair>,
    bytes: usize,
}

/// A batch that is being written, and gets its keys back.
struct Flight {
    task: Task<(Vec<Pair>, Result<Written, Error>)>,
    first: u64,
    bytes: usize,
}

struct Import<'a> {
    client: &'a Client,
    batch: Batch,
    flights: VecDeque<Flight>,
    flight_bytes: usize,
    /// Of all flights; each is in one only.
    keys: HashSet<Vec<u8>>,
    /// Lines.
    written: u64,
    /// The first batch that was not written: its first line, and why.
    failed: Option<(u64, Error)>,
}

impl<'a> Import<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            batch: Batch::default(),
            flights: VecDeque::new(),
            flight_bytes: 0,
            keys: HashSet::new(),
            written: 0,
            failed: None,
        }
    }

    async fn add(&mut self, number: u64, pair: Pair) {
        let bytes = pair.key.len() + pair.value.len();
        if self.batch.bytes + bytes > BATCH_BYTES_MAX || self.batch.pairs.len() == BATCH_LINES_MAX {
            self.send().await;
        }
        if self.batch.pairs.is_empty() {
            self.batch.first = number;
        }
        self.batch.bytes += bytes;
        self.batch.pairs.push(pair);
    }

    /// Sends the batch, if it has lines and none was refused, once there is room for it.
    async fn send(&mut self) {
        while self.failed.is_none() && (self.has_landed() || !self.has_room()) {
            self.land().await;
        }
        if self.batch.pairs.is_empty() || self.failed.is_some() {
            return;
        }
        let Batch { first, pairs, bytes } = std::mem::take(&mut self.batch);
        self.keys.extend(pairs.iter().map(|pair| pair.key.clone()));
        self.flight_bytes += bytes;
        let task = smol::spawn(write(self.client.clone(), pairs));
        self.flights.push_back(Flight { task, first, bytes });
    }

    fn has_landed(&self) -> bool {
        self.flights.front().is_some_and(|flight| flight.task.is_finished())
    }

    fn has_room(&self) -> bool {
        self.flights.len() < FLIGHTS_MAX
            && self.flight_bytes < FLIGHT_BYTES
            && !self.batch.pairs.iter().any(|pair| self.keys.contains(&pair.key))
    }

    /// Waits for the oldest flight.
    async fn land(&mut self) {
        let Some(Flight { task, first, bytes }) = self.flights.pop_front() else { return };
        let (pairs, written) = task.await;
        self.flight_bytes -= bytes;
        for pair in &pairs {
            self.keys.remove(&pair.key);
        }
        match written {
            Ok(_) => self.written += pairs.len() as u64,
            Err(error) => {
                self.failed.get_or_insert((first, error));
            }
        }
    }

    /// Sends what is left, unless something was refused, and waits for everything.
    async fn finish(&mut self) {
        self.send().await;
        while !self.flights.is_empty() {
            self.land().await;
        }
    }
}

async fn write(client: Client, pairs: Vec<Pair>) -> (Vec<Pair>, Result<Written, Error>) {
    let written = client.batch(pairs.iter().map(Pair::set).collect()).await;
    (pairs, written)
}
