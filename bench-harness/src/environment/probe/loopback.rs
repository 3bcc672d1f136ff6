//! What a round trip costs within this machine: one small message to another thread over TCP, and back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Times;

/// Round trips that count.
const ROUND_TRIPS: usize = 2_000;

/// Round trips before those, in which both threads and the connection become warm.
const WARM_UP: usize = 100;

/// Longest time that the probe takes; on a slow machine it makes fewer round trips.
const TIME_MAX: Duration = Duration::from_secs(1);

/// Longest wait for one message.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes of a message: a small write, framed.
const MESSAGE_BYTES: usize = 130;

/// Times of 130 bytes to a thread that sends them back, over a TCP connection on 127.0.0.1 that delays
/// nothing (TCP_NODELAY).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoopbackProbe {
    /// How many.
    pub round_trips: usize,
    /// 10th percentile, in microseconds: what it takes when nobody disturbs it.
    pub p10_us: u64,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl LoopbackProbe {
    /// Measures for up to a second. Fails if no connection can be made, or if it falls silent.
    pub(in crate::environment) fn measure() -> io::Result<Self> {
        let (near, far) = connection()?;
        let times = thread::scope(|scope| {
            let echo = thread::Builder::new().name("echo".to_owned()).spawn_scoped(scope, || echo(far))?;
            let times = round_trips(near); // closes its end, which ends the echo
            echo.join().expect("reading and writing do not panic");
            times
        })?;
        Ok(Self {
            round_trips: times.count(),
            p10_us: times.us_at(10),
            p50_us: times.us_at(50),
            p99_us: times.us_at(99),
        })
    }
}

/// Both ends of a connection.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect_timeout(&listener.local_addr()?, WAIT_MAX)?;
    let far = loop {
        let (stream, from) = listener.accept()?;
        // Anybody on this machine may have come first.
        if from == near.local_addr()? {
            break stream;
        }
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
    }
    Ok((near, far))
}

/// Sends back what comes until the other end closes, or the connection fails, which the other end sees.
fn echo(mut stream: TcpStream) {
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok() {}
}

fn round_trips(mut stream: TcpStream) -> io::Result<Times> {
    let begin = Instant::now();
    let mut message = [0xA5; MESSAGE_BYTES];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for count in 0..WARM_UP + ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if count >= WARM_UP {
            times.push(start.elapsed());
        }
        if begin.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(Times::new(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_measures_round_trips() {
        let probe = LoopbackProbe::measure().unwrap();
        assert!(probe.round_trips <= ROUND_TRIPS && probe.p50_us <= probe.p99_us, "{probe:?}");
    }

    #[test]
    fn an_end_that_closes_early_is_an_error_and_no_hang() {
        let (near, far) = connection().unwrap();
        drop(far);
        assert!(round_trips(near).is_err());
    }
}
