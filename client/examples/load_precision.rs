//! How precise the load generator is on this machine, and how many calls it makes: against a target that does
//! nothing, so that what is seen is the generator alone.
//!
//! ```sh
//! cargo run --release --example load_precision --features load
//! ```

use std::rc::Rc;
use std::time::Duration;

use quorate_client::load::{
    Arrivals, CallError, Connection, Control, Spacing, Target, Workload, WorkloadError, run,
};
use smol::LocalExecutor;
use smol::future::yield_now;

/// Acknowledges every call as soon as the other tasks have had their turn.
struct Nothing;

impl Target for Nothing {
    type Connection = Nothing;

    async fn connect(&self, _: u32, _: &Rc<LocalExecutor<'static>>) -> Result<Nothing, CallError> {
        Ok(Nothing)
    }
}

impl Connection for Nothing {
    async fn write(&self, _: &[u8], _: &[u8]) -> Result<Option<u64>, CallError> {
        yield_now().await;
        Ok(None)
    }

    async fn read(&self, _: &[u8]) -> Result<(), CallError> {
        yield_now().await;
        Ok(())
    }
}

fn main() -> Result<(), WorkloadError> {
    let workload = |arrivals, seconds| Workload {
        clients: 16,
        in_flight: 64,
        arrivals,
        warmup: Duration::from_millis(500),
        duration: Duration::from_secs(seconds),
        ..Workload::default()
    };
    let closed = run(&workload(Arrivals::Closed, 3), &Nothing, &Control::default(), None)?;
    println!("closed loop: {:.0} calls per second", closed.per_second());
    println!("open loop, arrivals per second: sent so long after the intended start");
    for per_second in [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 3e5, 6e5, 1e6] {
        let arrivals = Arrivals::Open { per_second, spacing: Spacing::Constant };
        let seconds = if per_second < 100.0 { 20 } else { 3 };
        let report = run(&workload(arrivals, seconds), &Nothing, &Control::default(), None)?;
        let lag_us = |quantile| report.generator.schedule_lag_ns.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "{per_second:>9}: median {:>6.1} µs, 99 % {:>7.1} µs, longest {:>8.1} µs, {} of {} over 1 ms late",
            lag_us(0.5),
            lag_us(0.99),
            lag_us(1.0),
            report.generator.late_wakes,
            report.issued,
        );
    }
    Ok(())
}
