//! What a report must say about the machine to be worth reading later: hardware, system, file system, and
//! what a sync costs there.
//!
//! Facts that the machine does not tell are "unknown" or 0; nothing here fails a run but a probe that
//! cannot write.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Syncs of the probe.
const PROBE_SYNCS: usize = 200;

/// Bytes that each of them writes.
const PROBE_BYTES: usize = 4096;

/// Longest time that the probe takes; on a slow disk it makes fewer syncs.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);

/// Under which conditions a report was made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// Of the harness, and so of the servers.
    pub version: String,
    /// "release", or "debug" if assertions were compiled in: figures of a debug build mean little.
    pub profile: String,
    /// When the harness started, in UTC.
    pub time: String,
    /// The operating system.
    pub os: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Model of the processors.
    pub cpu: String,
    /// Processors that the harness and its nodes may use together.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Where the nodes keep their data.
    pub data_dir: String,
    /// Type of the file system there.
    pub file_system: String,
    /// What a sync costs there.
    pub fsync: FsyncProbe,
}

/// Times of writing and syncing (fdatasync) 4 KiB onto blocks that were written before.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct FsyncProbe {
    /// How many.
    pub syncs: usize,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl Environment {
    /// Looks around. Takes a fraction of a second, up to two on a slow disk. Fails if nothing can be
    /// written to `data_dir`.
    pub fn gather(data_dir: &Path) -> anyhow::Result<Self> {
        let system = rustix::system::uname();
        let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            time: utc(SystemTime::now()),
            os: system.sysname().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            file_system: file_system(&read("/proc/self/mountinfo"), &data_dir),
            fsync: FsyncProbe::measure(&data_dir)?,
            data_dir: data_dir.display().to_string(),
        })
    }

    /// Whether the nodes' data is in memory, where a sync costs nothing.
    pub fn data_is_in_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

impl FsyncProbe {
    /// Measures in a file of its own, which is removed.
    fn measure(directory: &Path) -> anyhow::Result<Self> {
        let advice =
            || format!("nothing can be written to {}: choose another --data-dir", directory.display());
        let file = tempfile::tempfile_in(directory).with_context(advice)?;
        let mut times = sync_times(&file).with_context(advice)?;
        times.sort_unstable();
        let at =
            |percent: usize| times.get(times.len() * percent / 100).map_or(0, |time| time.as_micros() as u64);
        Ok(Self { syncs: times.len(), p50_us: at(50), p99_us: at(99) })
    }
}

fn sync_times(file: &File) -> std::io::Result<Vec<Duration>> {
    file.write_all_at(&vec![0; PROBE_SYNCS * PROBE_BYTES], 0)?;
    file.sync_all()?;
    let begin = Instant::now();
    let mut times = Vec::with_capacity(PROBE_SYNCS);
    for block in 0..PROBE_SYNCS {
        if begin.elapsed() > PROBE_TIME_MAX {
            break;
        }
        let start = Instant::now();
        file.write_all_at(&[0xA5; PROBE_BYTES], (block * PROBE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first `name: value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> u64 {
    let kibibytes = field(meminfo, "MemTotal").and_then(|value| value.trim_end_matches(" kB").parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024)
}

/// The type of the file system that an absolute path is on: the mount with the longest matching path, the
/// last one of several on the same path.
fn file_system(mountinfo: &str, path: &Path) -> String {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            Some((left.split(' ').nth(4)?, right.split(' ').next()?))
        })
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// A point in time as RFC 3339 in UTC: `2026-11-22T17:02:57Z`.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day, so many days after 1970-01-01.
fn date(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_366_977, "2026-11-22T17:02:57Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_file_system_is_that_of_the_longest_mount() {
        let mounts = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:5 / /dev rw - devtmpfs udev rw
31 30 0:25 / /dev/shm rw shared:2 master:3 - tmpfs tmpfs rw
32 21 0:26 / /development rw - xfs /dev/vdb rw
";
        for (path, kind) in
            [("/dev/shm/a", "tmpfs"), ("/dev/x", "devtmpfs"), ("/home", "ext4"), ("/development", "xfs")]
        {
            assert_eq!(file_system(mounts, Path::new(path)), kind, "{path}");
        }
        assert_eq!(file_system("", Path::new("/")), "unknown");
    }

    #[test]
    fn the_machine_is_read_from_its_files() {
        assert_eq!(memory_bytes("MemFree: 3 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(field("a : b\nmodel name\t: Fast: 3\n", "model name").as_deref(), Some("Fast: 3"));
    }

    #[test]
    fn the_probe_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let probe = FsyncProbe::measure(directory.path()).unwrap();
        assert!(probe.syncs > 0 && probe.p50_us <= probe.p99_us);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
