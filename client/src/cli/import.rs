//! `quorate import`: lines become keys, many at a time.
//!
//! Lines that are there at once are written together, as one batch, and several batches are in flight: so a file is
//! written as fast as the cluster takes it, and a line that comes alone is written at once. They are written in one
//! session, so a batch that may have been written is sent again until that is known.
//!
//! # Invariants
//!
//! - Of two lines with the same key the later one wins: a batch waits until nothing in flight has a key of it.
//! - However it stops, it says how many lines are known to be written. Unless that was at the end of the input, it names a
//!   line, too, and all before that are written or were skipped.
//! - In flight are at most [`FLIGHTS_MAX`] batches, and no more once they hold [`FLIGHT_BYTES`].
//! - Whatever is awaited here may be given up: a signal ends it where it is.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::io::{self, Read, Write};
use std::ops::Range;

use futures_lite::{AsyncReadExt, future};
use quorate_protocol::request;
use smol::{Task, Unblock};

use super::arguments::Format;
use super::exit::{Exit, Failure, exit_of, printed, say};
use super::lines::{self, Pair};
use super::output;
use super::signals::Stop;
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

/// Writes lines until the input ends, a line cannot be read, a batch cannot be written, or a signal comes.
pub(super) async fn run(
    client: &Client,
    skip_bad: bool,
    format: Format,
    input: impl Read + Send + 'static,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut import = Import::new(client);
    let lines = Lines::new(input);
    let all = async { Some(import.all(lines, format, skip_bad).await) };
    let ended = match future::or(asked(&mut stop), all).await {
        Some(ended) => ended,
        None => {
            // What is in flight; whoever does not want to wait for that asks once more.
            future::or(stop.asked(), import.land_all()).await;
            Err(import.stopped())
        }
    };
    let counts = output::imported(out, format, import.written, import.skipped, client.session_token());
    let printed = printed(counts, out);
    match import.failed {
        Some((first, error)) => Err(not_written(first, error)),
        None => ended.and(printed),
    }
}

async fn asked<T>(stop: &mut Stop) -> Option<T> {
    stop.asked().await;
    None
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

fn not_read(next: u64, error: io::Error) -> Failure {
    let Failure { exit, message } = error.into();
    Failure::new(exit, format!("{message}; the lines before line {next} are written: go on with that line"))
}

/// What a line says, if it can be written.
fn pair(format: Format, line: &[u8]) -> Result<Pair, String> {
    let pair = lines::parse(format, line)?;
    request::Write::One(pair.set()).check().map_err(|error| error.to_string())?;
    Ok(pair)
}

/// The lines of the input, which another thread reads: so nothing here waits for it alone.
struct Lines<R> {
    input: Unblock<R>,
    /// What was read at once; `unused` of it belongs to further lines.
    bytes: Vec<u8>,
    unused: Range<usize>,
    is_over: bool,
    /// What was read of the next line before that, and no more than shows that it is too long.
    part: Vec<u8>,
    /// Of the last line, counted from 1.
    number: u64,
}

impl<R: Read + Send + 'static> Lines<R> {
    fn new(input: R) -> Self {
        Self {
            input: Unblock::new(input),
            bytes: vec![0; READ_BYTES],
            unused: 0..0,
            is_over: false,
            part: Vec::new(),
            number: 0,
        }
    }

    /// Whether a whole line was read already, so that the next one is had without waiting.
    fn has_another(&self) -> bool {
        self.bytes[self.unused.clone()].contains(&b'\n')
    }

    /// The next line, without its end; none at the end. The inner error says what is wrong with it.
    async fn next(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        while !self.take_through_newline() {
            if self.is_over && self.part.is_empty() {
                return Ok(None);
            }
            if self.is_over {
                break;
            }
            self.unused = 0..self.input.read(&mut self.bytes).await?;
            self.is_over = self.unused.is_empty();
        }
        self.number += 1;
        Ok(Some(whole(std::mem::take(&mut self.part))))
    }

    /// Takes what was read of the next line, and says whether that is all of it.
    fn take_through_newline(&mut self) -> bool {
        let unused = &self.bytes[self.unused.clone()];
        let newline = unused.iter().position(|byte| *byte == b'\n');
        let more = &unused[..newline.unwrap_or(unused.len())];
        let room = LINE_BYTES_MAX + 1 - self.part.len();
        self.part.extend_from_slice(&more[..more.len().min(room)]);
        self.unused.start += more.len() + usize::from(newline.is_some());
        newline.is_some()
    }
}

/// A line without its newline. A carriage return that belongs to its value is written as an escape.
fn whole(mut line: Vec<u8>) -> Result<Vec<u8>, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
    }
    line.pop_if(|last| *last == b'\r');
    Ok(line)
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
    /// The last line that is in a batch, or was skipped.
    taken: u64,
    /// Lines.
    written: u64,
    /// Lines.
    skipped: u64,
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
            taken: 0,
            written: 0,
            skipped: 0,
            failed: None,
        }
    }

    /// Writes all lines, or those before the one that the error names.
    async fn all<R: Read + Send + 'static>(
        &mut self,
        mut lines: Lines<R>,
        format: Format,
        skip_bad: bool,
    ) -> Result<(), Failure> {
        let ended = self.take(&mut lines, format, skip_bad).await;
        self.send().await;
        self.land_all().await;
        ended
    }

    /// Takes lines until there are no more, one is bad, or a batch was not written.
    async fn take<R: Read + Send + 'static>(
        &mut self,
        lines: &mut Lines<R>,
        format: Format,
        skip_bad: bool,
    ) -> Result<(), Failure> {
        loop {
            if !lines.has_another() {
                self.send().await;
            }
            let line = self.next(lines).await.map_err(|error| not_read(self.taken + 1, error))?;
            let Some(line) = line else { return Ok(()) };
            match line.and_then(|line| pair(format, &line)) {
                Ok(pair) => self.add(lines.number, pair).await,
                Err(reason) if skip_bad => {
                    say(&format!("line {} is skipped: {reason}", lines.number));
                    self.skipped += 1;
                }
                Err(reason) => return Err(bad_line(lines.number, &reason)),
            }
            self.taken = lines.number;
        }
    }

    /// The next line, if there is one and no batch has failed. While it does not come, batches land.
    async fn next<R: Read + Send + 'static>(
        &mut self,
        lines: &mut Lines<R>,
    ) -> io::Result<Option<Result<Vec<u8>, String>>> {
        while self.failed.is_none() {
            let line = async { Some(lines.next().await) };
            let landed = async {
                self.land().await;
                None
            };
            if let Some(line) = future::or(line, landed).await {
                return line;
            }
        }
        Ok(None)
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

    /// Waits for the oldest flight: for ever, if there is none.
    async fn land(&mut self) {
        let Some(oldest) = self.flights.front_mut() else { return pending().await };
        let (pairs, written) = (&mut oldest.task).await;
        let (first, bytes) = (oldest.first, oldest.bytes);
        self.flights.pop_front();
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

    /// Waits for everything that was sent, and ends the session.
    async fn land_all(&mut self) {
        while !self.flights.is_empty() {
            self.land().await;
        }
        self.client.close().await;
    }

    /// A signal has come.
    fn stopped(&self) -> Failure {
        let unknown = self.flights.front().map(|flight| flight.first);
        let unsent = (!self.batch.pairs.is_empty()).then_some(self.batch.first);
        let next = unknown.or(unsent).unwrap_or(self.taken + 1);
        let later = if unknown.is_some() { ", later ones may be" } else { "" };
        let message =
            format!("told to stop; the lines before line {next} are written{later}: go on with that line");
        Failure::new(Exit::Stopped, message)
    }
}

async fn write(client: Client, pairs: Vec<Pair>) -> (Vec<Pair>, Result<Written, Error>) {
    let written = client.batch(pairs.iter().map(Pair::set).collect()).await;
    (pairs, written)
}
