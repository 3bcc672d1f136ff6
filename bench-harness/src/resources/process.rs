//! What one process used, from `/proc/PID`.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::{read, seconds};

/// The counters of one process at one moment, all since it started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    id: u32,
    stat: Stat,
    memory: Memory,
    io: Option<Io>,
    /// By thread: a thread takes its count with it when it ends.
    switches: BTreeMap<u32, Switches>,
}

/// What one process used between two moments.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in its own code, in seconds, to a hundredth; of all its threads, so it may exceed the
    /// time that passed.
    pub cpu_user_s: f64,
    /// Processor time that the kernel worked for it, in seconds.
    pub cpu_system_s: f64,
    /// Memory that it held at the end, in bytes.
    pub rss_bytes: u64,
    /// Most memory that it ever held, in bytes: since it started, not since the window began.
    pub rss_peak_bytes: u64,
    /// Bytes that it made the kernel write to storage, in whole pages; 0 on a file system in memory. Null if
    /// the kernel does not tell.
    pub storage_write_bytes: Option<u64>,
    /// Bytes that it handed over in calls that write, to files and other things; what it sends over sockets
    /// with calls of their own is not among them. Null if the kernel does not tell.
    pub write_call_bytes: Option<u64>,
    /// How often its threads went to sleep, waiting for something. Of threads that ran at the end.
    pub switches_voluntary: u64,
    /// How often its threads had to make room for others, which a busy machine does. Of threads that ran at
    /// the end.
    pub switches_involuntary: u64,
    /// Threads at the end.
    pub threads: u64,
}

/// From `/proc/PID/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    /// When it started: a process id may be used again.
    start_ticks: u64,
}

/// From `/proc/PID/status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Memory {
    rss_bytes: u64,
    rss_peak_bytes: u64,
}

/// From `/proc/PID/io`, which only the process's owner may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Io {
    storage_write_bytes: u64,
    write_call_bytes: u64,
}

/// From `/proc/PID/task/ID/status`: that of the process tells of its first thread alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Switches {
    voluntary: u64,
    involuntary: u64,
}

impl Sample {
    /// The counters of a process; none if it has ended, waited for or not.
    pub fn of(id: u32) -> Option<Self> {
        Some(Self {
            id,
            stat: Stat::parse(&read(&format!("/proc/{id}/stat"))?)?,
            memory: Memory::parse(&read(&format!("/proc/{id}/status"))?)?,
            io: read(&format!("/proc/{id}/io")).and_then(|text| Io::parse(&text)),
            switches: switches_by_thread(id),
        })
    }

    fn is_same_process(&self, other: &Self) -> bool {
        (self.id, self.stat.start_ticks) == (other.id, other.stat.start_ticks)
    }
}

impl Usage {
    /// What a process used from `begin` to `end`. If `begin` is of another process, as when a node was
    /// restarted, it is what `end`'s process used since it started; for what the one before used, take a
    /// sample before it ends, and [join](Self::joined) the two.
    pub fn between(begin: &Sample, end: &Sample) -> Self {
        Self::from(Some(begin).filter(|begin| begin.is_same_process(end)), end)
    }

    /// What a process has used since it started.
    pub fn since_start(sample: &Sample) -> Self {
        Self::from(None, sample)
    }

    fn from(begin: Option<&Sample>, end: &Sample) -> Self {
        let ticks = |count: fn(&Stat) -> u64| {
            seconds(count(&end.stat).saturating_sub(begin.map_or(0, |begin| count(&begin.stat))))
        };
        let bytes = |count: fn(&Io) -> u64| {
            let before = begin.map_or(Some(0), |begin| begin.io.as_ref().map(count));
            Some(end.io.as_ref().map(count)?.saturating_sub(before?))
        };
        let switches = |count: fn(&Switches) -> u64| {
            let before = |thread| begin.and_then(|begin| begin.switches.get(thread)).map_or(0, count);
            let by_thread = end.switches.iter();
            by_thread.map(|(thread, after)| count(after).saturating_sub(before(thread))).sum()
        };
        Self {
            cpu_user_s: ticks(|stat| stat.user_ticks),
            cpu_system_s: ticks(|stat| stat.system_ticks),
            rss_bytes: end.memory.rss_bytes,
            rss_peak_bytes: end.memory.rss_peak_bytes,
            storage_write_bytes: bytes(|io| io.storage_write_bytes),
            write_call_bytes: bytes(|io| io.write_call_bytes),
            switches_voluntary: switches(|switches| switches.voluntary),
            switches_involuntary: switches(|switches| switches.involuntary),
            threads: end.stat.threads,
        }
    }

    /// What the processes of one node used that ran one after the other, in their order: the sum of what was
    /// used, the highest peak, and what the last one held at its end. None if there are none.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        parts.into_iter().reduce(|earlier, later| Self {
            cpu_user_s: hundredths(earlier.cpu_user_s + later.cpu_user_s),
            cpu_system_s: hundredths(earlier.cpu_system_s + later.cpu_system_s),
            rss_peak_bytes: earlier.rss_peak_bytes.max(later.rss_peak_bytes),
            storage_write_bytes: sum(earlier.storage_write_bytes, later.storage_write_bytes),
            write_call_bytes: sum(earlier.write_call_bytes, later.write_call_bytes),
            switches_voluntary: earlier.switches_voluntary + later.switches_voluntary,
            switches_involuntary: earlier.switches_involuntary + later.switches_involuntary,
            ..later
        })
    }

    /// Processor time altogether, in seconds.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

impl Stat {
    /// None of a process that has ended and was not waited for yet, as of a text that is none.
    fn parse(stat: &str) -> Option<Self> {
        // The name in parentheses may have blanks and parentheses itself.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let has_ended = matches!(*fields.first()?, "Z" | "X");
        // Numbered as in proc(5), where the state is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        let stat = Self {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
        };
        (!has_ended).then_some(stat)
    }
}

impl Memory {
    fn parse(status: &str) -> Option<Self> {
        let bytes = |name| number(status, name).map(|kibibytes| kibibytes * 1024);
        Some(Self { rss_bytes: bytes("VmRSS")?, rss_peak_bytes: bytes("VmHWM")? })
    }
}

impl Io {
    fn parse(io: &str) -> Option<Self> {
        Some(Self { storage_write_bytes: number(io, "write_bytes")?, write_call_bytes: number(io, "wchar")? })
    }
}

impl Switches {
    fn parse(status: &str) -> Option<Self> {
        Some(Self {
            voluntary: number(status, "voluntary_ctxt_switches")?,
            involuntary: number(status, "nonvoluntary_ctxt_switches")?,
        })
    }
}

fn switches_by_thread(id: u32) -> BTreeMap<u32, Switches> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            Some((thread.file_name().to_str()?.parse().ok()?, Switches::parse(&status)?))
        })
        .collect()
}

/// The number in the `name: number` line, with or without " kB" behind it.
fn number(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name)?.1;
    value.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    const STAT: &str = "4711 (node (1) R) S 1 4711 4711 0 -1 4194560 5400 0 0 0 250 75 9 9 20 0 3 0 57922 \
                        313344000 9000 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0\n";
    const STATUS: &str = "Name:\tnode\nVmPeak:\t  400 kB\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\nThreads:\t3\n\
                          voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
    const IO: &str = "rchar: 3\nwchar: 5000\nsyscr: 1\nsyscw: 1\nread_bytes: 0\nwrite_bytes: 8192\n\
                      cancelled_write_bytes: 0\n";

    fn sample(id: u32, user_ticks: u64) -> Sample {
        Sample {
            id,
            stat: Stat { user_ticks, ..Stat::parse(STAT).unwrap() },
            memory: Memory::parse(STATUS).unwrap(),
            io: Io::parse(IO),
            switches: BTreeMap::from([(id, Switches::parse(STATUS).unwrap())]),
        }
    }

    /// Uses the processor until the kernel has counted some of it, which it does in ticks.
    pub(in crate::resources) fn be_busy_until_counted() {
        let own = std::process::id();
        let begin = Sample::of(own).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Usage::between(&begin, &Sample::of(own).unwrap()).cpu_s() == 0.0 {
            assert!(Instant::now() < deadline, "no processor time is counted");
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {}
        }
    }

    #[test]
    fn counters_are_read_from_the_kernels_files() {
        let stat = Stat { user_ticks: 250, system_ticks: 75, threads: 3, start_ticks: 57_922 };
        assert_eq!(Stat::parse(STAT), Some(stat));
        assert_eq!(Memory::parse(STATUS), Some(Memory { rss_bytes: 200 << 10, rss_peak_bytes: 300 << 10 }));
        assert_eq!(Switches::parse(STATUS), Some(Switches { voluntary: 150, involuntary: 545 }));
        assert_eq!(Io::parse(IO), Some(Io { storage_write_bytes: 8_192, write_call_bytes: 5_000 }));
    }

    #[test]
    fn what_is_incomplete_is_no_sample() {
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("4711 (node) S 1 4711"), None);
        assert_eq!(Memory::parse("Name:\tkthreadd\n"), None);
        assert_eq!((Io::parse("wchar: 5\n"), Switches::parse("")), (None, None));
        assert!(Sample::of(std::process::id()).is_some() && Sample::of(u32::MAX).is_none());
    }

    #[test]
    fn a_process_that_has_ended_has_no_counters() {
        assert_eq!(Stat::parse(&STAT.replace(" R) S ", " R) Z ")), None);
    }

    #[test]
    fn usage_is_what_was_added() {
        let (begin, mut end) = (sample(7, 100), sample(7, 357));
        end.io = Some(Io { storage_write_bytes: 12_288, write_call_bytes: 5_001 });
        end.memory.rss_bytes = 1_024;
        end.switches.insert(7, Switches { voluntary: 160, involuntary: 545 });
        end.switches.insert(8, Switches { voluntary: 5, involuntary: 1 });
        let expected = Usage {
            cpu_user_s: seconds(257),
            cpu_system_s: 0.0,
            rss_bytes: 1_024,
            rss_peak_bytes: 300 << 10,
            storage_write_bytes: Some(4_096),
            write_call_bytes: Some(1),
            switches_voluntary: 15,
            switches_involuntary: 1,
            threads: 3,
        };
        assert_eq!(Usage::between(&begin, &end), expected);
    }

    #[test]
    fn a_restarted_process_counts_from_its_start() {
        let end = sample(7, 30);
        assert_eq!(Usage::between(&sample(6, 900), &end), Usage::since_start(&end));
        let mut reused = sample(7, 10);
        reused.stat.start_ticks -= 1;
        assert_eq!(Usage::between(&reused, &end), Usage::since_start(&end), "the id is used again");
    }

    #[test]
    fn the_parts_of_a_restarted_node_add_up() {
        let mut first = Usage::since_start(&sample(6, 120));
        let last = Usage { rss_bytes: 7, rss_peak_bytes: 9, ..Usage::since_start(&sample(7, 57)) };
        let both = Usage::joined([first.clone(), last.clone()]).unwrap();
        assert_eq!(both.cpu_user_s, seconds(177));
        assert_eq!((both.rss_bytes, both.rss_peak_bytes), (7, 300 << 10));
        assert_eq!((both.storage_write_bytes, both.switches_involuntary), (Some(16_384), 1_090));
        first.storage_write_bytes = None;
        assert_eq!(Usage::joined([first, last]).unwrap().storage_write_bytes, None, "half is not the whole");
        assert_eq!(Usage::joined([]), None);
    }

    #[test]
    fn bytes_that_were_not_told_at_both_ends_are_unknown() {
        let mut begin = sample(7, 1);
        begin.io = None;
        assert_eq!(Usage::between(&begin, &sample(7, 2)).write_call_bytes, None);
    }

    #[test]
    fn this_process_is_seen_working_and_writing() {
        let own = std::process::id();
        let begin = Sample::of(own).unwrap();
        be_busy_until_counted();
        tempfile::tempfile().unwrap().write_all(&vec![1; 1 << 20]).unwrap();
        let usage = Usage::between(&begin, &Sample::of(own).unwrap());
        assert!(usage.cpu_s() > 0.0 && usage.threads > 0, "{usage:?}");
        assert!(usage.rss_bytes > 0 && usage.rss_peak_bytes >= usage.rss_bytes, "{usage:?}");
        assert!(usage.write_call_bytes.is_none_or(|bytes| bytes >= 1 << 20), "{usage:?}");
    }
}
