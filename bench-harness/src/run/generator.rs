//! The load in its thread, which it keeps busy; told to end when dropped.

use std::thread::{self, JoinHandle};

use anyhow::{Context, bail};
use quorate_client::load::{self, Control, KeyPrefix, Record, Target, Workload, WorkloadError};

use crate::plan::{Arrivals, Distribution, Load, Spacing};
use crate::report::{Calls, Distribution as Spread, Generator as Schedule, Second, tenths};

/// A part of all calls that, sent late by the generator, makes its figures doubtful.
const LATE_PART_MAX: f64 = 0.01;

/// A running load.
#[derive(Debug)]
pub(super) struct Generator {
    control: Control,
    thread: Option<JoinHandle<Result<load::Report, WorkloadError>>>,
}

impl Generator {
    /// Begins to load a target. A record is of an earlier load on the same store, which this one continues.
    pub(super) fn start(
        workload: Workload,
        target: impl Target + Send + 'static,
        record: Option<Record>,
    ) -> anyhow::Result<Self> {
        let control = Control::default();
        let shared = control.clone();
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || load::run(&workload, &target, &shared, record))
            .context("the load's thread cannot be started")?;
        Ok(Self { control, thread: Some(thread) })
    }

    /// What it shows while it runs.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Whether all its calls have ended.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the load, if it goes on, and waits for its open calls, which their deadline bounds.
    pub(super) fn finish(mut self) -> anyhow::Result<load::Report> {
        self.control.stop();
        let Some(thread) = self.thread.take() else { bail!("the load has ended before") };
        match thread.join() {
            Ok(report) => Ok(report?),
            Err(_) => bail!("the load generator panicked: this is a defect of the harness"),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// The load of a case in the generator's terms.
pub(super) fn workload(load: &Load, seed: u64, key_prefix: KeyPrefix) -> Workload {
    Workload {
        clients: load.clients,
        in_flight: load.in_flight,
        arrivals: match load.arrivals {
            Arrivals::Closed => load::Arrivals::Closed,
            Arrivals::Open { per_second, spacing } => load::Arrivals::Open {
                per_second,
                spacing: match spacing {
                    Spacing::Poisson => load::Spacing::Poisson,
                    Spacing::Constant => load::Spacing::Constant,
                },
            },
        },
        read_share: load.reads,
        keys: load.keys,
        distribution: match load.distribution {
            Distribution::Uniform => load::Distribution::Uniform,
            Distribution::Zipfian { exponent } => load::Distribution::Zipfian { exponent },
            Distribution::Sequential => load::Distribution::Sequential,
        },
        key_prefix,
        value_bytes: load.value_bytes.min as usize..=load.value_bytes.max as usize,
        seed,
        warmup: load.warmup,
        duration: load.duration,
    }
}

/// What came of the calls of one kind.
pub(super) fn calls(calls: &load::Calls, elapsed_s: f64) -> Calls {
    Calls {
        acknowledged: calls.acknowledged,
        refused: calls.refused,
        unknown: calls.unknown,
        reasons: calls.reasons.clone(),
        per_second: tenths(calls.acknowledged as f64 / elapsed_s),
        latency_us: Spread::of_ns(&calls.latency_ns),
        service_us: Spread::of_ns(&calls.service_ns),
    }
}

/// How well the generator kept its schedule.
pub(super) fn schedule(report: &load::Report) -> Schedule {
    let load::Generator { schedule_lag_ns, waited_for_slot, late_wakes } = &report.generator;
    let late = *late_wakes;
    Schedule {
        scheduled: report.scheduled,
        issued: report.issued,
        schedule_lag_us: Spread::of_ns(schedule_lag_ns),
        waited_for_slot: *waited_for_slot,
        late,
        fell_behind: late as f64 > report.issued as f64 * LATE_PART_MAX,
    }
}

/// What happened in each second.
pub(super) fn seconds(report: &load::Report) -> Vec<Second> {
    let second = |second: &load::Second| {
        let load::Second { writes, reads, refused, unknown, p50_us, p99_us, max_us } = *second;
        Second { writes, reads, refused, unknown, p50_us, p99_us, max_us }
    };
    report.seconds.iter().map(second).collect()
}
