//! What the whole machine did, from `/proc/stat`, `/proc/loadavg` and `/proc/pressure`.
//!
//! In a container these may tell of the machine around it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{read, seconds, share};

/// The counters of the machine at one moment, all since it started.
#[derive(Clone, PartialEq, Debug)]
pub struct MachineSample {
    at: Instant,
    ticks: Ticks,
    load_1m: Option<f64>,
    stalled: Option<Stalled>,
}

/// What the machine did between two moments. Shares are of the time of all processors, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineUsage {
    /// Processors that were running.
    pub cores: u64,
    /// Time of all processors together, in seconds.
    pub core_s: f64,
    /// Worked, for whatever program or the kernel.
    pub busy_share: f64,
    /// Had nothing to do while somebody waited for a disk.
    pub iowait_share: f64,
    /// Had work, and the host of this virtual machine gave the processor to others.
    pub steal_share: f64,
    /// Mean number of threads that ran, wanted to run or waited for a disk, over the minute before the end;
    /// null if the system does not tell.
    pub load_1m: Option<f64>,
    /// How much of the time threads could not go on; null if the system does not tell.
    pub pressure: Option<Pressure>,
}

/// Shares of the time that passed, from 0 to 1, in which threads could not go on for want of something
/// (Linux's pressure stall information).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one thread was ready and had no processor.
    pub cpu_some_share: f64,
    /// At least one thread waited for a disk.
    pub io_some_share: f64,
    /// Threads waited for a disk and none worked meanwhile.
    pub io_full_share: f64,
}

/// Clock ticks of all processors, from `/proc/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    cores: u64,
    busy: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

/// Microseconds in which threads could not go on, from `/proc/pressure`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stalled {
    cpu_some_us: u64,
    io_some_us: u64,
    io_full_us: u64,
}

impl MachineSample {
    /// The counters now; none if the system does not tell them.
    pub fn take() -> Option<Self> {
        Some(Self {
            at: Instant::now(),
            ticks: Ticks::parse(&read("/proc/stat")?)?,
            load_1m: read("/proc/loadavg").and_then(|text| first_number(&text)),
            stalled: Stalled::read(),
        })
    }
}

impl MachineUsage {
    /// What the machine did from `begin` to `end`.
    pub fn between(begin: &MachineSample, end: &MachineSample) -> Self {
        let ticks = end.ticks.since(&begin.ticks);
        let of_all = |part: u64| share(part as f64, ticks.all() as f64);
        let passed_us = end.at.saturating_duration_since(begin.at).as_micros() as f64;
        Self {
            cores: ticks.cores,
            core_s: seconds(ticks.all()),
            busy_share: of_all(ticks.busy),
            iowait_share: of_all(ticks.iowait),
            steal_share: of_all(ticks.steal),
            load_1m: end.load_1m,
            pressure: begin.stalled.zip(end.stalled).map(|(begin, end)| end.pressure(&begin, passed_us)),
        }
    }

    /// The busy share without this much processor time; 0 if that is all of it.
    pub(super) fn share_beside(&self, cpu_s: f64) -> f64 {
        share((self.busy_share * self.core_s - cpu_s).max(0.0), self.core_s)
    }
}

impl Ticks {
    fn parse(stat: &str) -> Option<Self> {
        let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = all.split_whitespace().map_while(|field| field.parse().ok()).collect();
        // Time of guests, in the fields behind these, is part of user and nice.
        let [user, nice, system, idle, iowait, irq, softirq, steal] = *ticks.first_chunk()?;
        let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
        let busy = user + nice + system + irq + softirq;
        Some(Self { cores: cores.count() as u64, busy, idle, iowait, steal })
    }

    /// What was added. The kernel may take back some iowait.
    fn since(&self, before: &Self) -> Self {
        Self {
            cores: self.cores,
            busy: self.busy.saturating_sub(before.busy),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            steal: self.steal.saturating_sub(before.steal),
        }
    }

    fn all(&self) -> u64 {
        self.busy + self.idle + self.iowait + self.steal
    }
}

impl Stalled {
    fn read() -> Option<Self> {
        Self::parse(&read("/proc/pressure/cpu")?, &read("/proc/pressure/io")?)
    }

    fn parse(cpu: &str, io: &str) -> Option<Self> {
        Some(Self {
            cpu_some_us: total_us(cpu, "some")?,
            io_some_us: total_us(io, "some")?,
            io_full_us: total_us(io, "full")?,
        })
    }

    fn pressure(&self, before: &Self, passed_us: f64) -> Pressure {
        let of_time = |total: fn(&Self) -> u64| {
            share(total(self).saturating_sub(total(before)) as f64, passed_us).min(1.0)
        };
        Pressure {
            cpu_some_share: of_time(|stalled| stalled.cpu_some_us),
            io_some_share: of_time(|stalled| stalled.io_some_us),
            io_full_share: of_time(|stalled| stalled.io_full_us),
        }
    }
}

/// The total of a line `some avg10=… avg60=… avg300=… total=…`.
fn total_us(pressure: &str, line: &str) -> Option<u64> {
    let fields = pressure.lines().find_map(|text| text.strip_prefix(line))?;
    fields.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STAT: &str = "\
cpu  1000 20 300 4000 150 30 60 40 7 0
cpu0 500 10 150 2000 75 15 30 20 7 0
cpu1 500 10 150 2000 75 15 30 20 0 0
intr 444480 0 0
ctxt 12
";
    const CPU: &str = "some avg10=38.06 avg60=28.64 avg300=11.57 total=57893502\n\
                       full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    const IO: &str = "some avg10=12.07 avg60=6.04 avg300=1.73 total=8807664\n\
                      full avg10=8.36 avg60=3.15 avg300=0.89 total=5498629\n";

    fn sample(at: Instant, ticks: Ticks, stalled: Option<Stalled>) -> MachineSample {
        MachineSample { at, ticks, load_1m: first_number("0.75 0.50 0.25 2/140 4711\n"), stalled }
    }

    #[test]
    fn counters_are_read_from_the_kernels_files() {
        let ticks = Ticks { cores: 2, busy: 1_410, idle: 4_000, iowait: 150, steal: 40 };
        assert_eq!(Ticks::parse(STAT), Some(ticks));
        let stalled = Stalled { cpu_some_us: 57_893_502, io_some_us: 8_807_664, io_full_us: 5_498_629 };
        assert_eq!(Stalled::parse(CPU, IO), Some(stalled));
        assert_eq!(first_number("0.75 0.50"), Some(0.75));
    }

    #[test]
    fn what_is_incomplete_is_no_sample() {
        assert_eq!(Ticks::parse("cpu  1000 20 300 4000\n"), None);
        assert_eq!(Ticks::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(Stalled::parse(CPU, "some avg10=1\n"), None);
        assert_eq!([first_number(""), first_number("NaN 1")], [None, None]);
    }

    #[test]
    fn usage_is_the_share_of_what_was_added() {
        let at = Instant::now();
        let begin_ticks = Ticks::parse(STAT).unwrap();
        let end_ticks = Ticks { cores: 2, busy: 1_490, idle: 4_090, iowait: 160, steal: 60 };
        let begin_stalled = Stalled::parse(CPU, IO).unwrap();
        let end_stalled = Stalled {
            cpu_some_us: begin_stalled.cpu_some_us + 250_000,
            io_some_us: begin_stalled.io_some_us + 100_000,
            io_full_us: begin_stalled.io_full_us,
        };
        let begin = sample(at, begin_ticks, Some(begin_stalled));
        let end = sample(at + Duration::from_secs(1), end_ticks, Some(end_stalled));
        let usage = MachineUsage::between(&begin, &end);
        assert_eq!((usage.cores, usage.core_s, usage.load_1m), (2, seconds(200), Some(0.75)));
        assert_eq!((usage.busy_share, usage.iowait_share, usage.steal_share), (0.4, 0.05, 0.1));
        let pressure = Pressure { cpu_some_share: 0.25, io_some_share: 0.1, io_full_share: 0.0 };
        assert_eq!(usage.pressure, Some(pressure));
    }

    #[test]
    fn others_used_what_is_left_of_the_busy_time() {
        let at = Instant::now();
        let ticks = Ticks::parse(STAT).unwrap();
        let later = Ticks { busy: ticks.busy + 80, idle: ticks.idle + 120, ..ticks };
        let usage = MachineUsage::between(&sample(at, ticks, None), &sample(at, later, None));
        assert_eq!((usage.busy_share, usage.pressure), (0.4, None));
        assert_eq!(usage.share_beside(seconds(50)), 0.15);
        assert_eq!(usage.share_beside(seconds(90)), 0.0, "processes are counted finer than the machine");
    }

    #[test]
    fn counters_that_go_back_and_empty_windows_give_numbers() {
        let at = Instant::now();
        let ticks = Ticks::parse(STAT).unwrap();
        let earlier = Ticks { iowait: ticks.iowait + 9, ..ticks };
        let stalled = Stalled::parse(CPU, IO);
        let usage = MachineUsage::between(&sample(at, earlier, stalled), &sample(at, ticks, stalled));
        assert_eq!((usage.core_s, usage.busy_share, usage.iowait_share), (0.0, 0.0, 0.0));
        assert_eq!((usage.share_beside(1.0), usage.pressure.unwrap().cpu_some_share), (0.0, 0.0));
    }
}
