//! What a report must say about its conditions to be worth reading later: the code, the machine, the system,
//! the disk, and what a sync, a round trip and a short sleep cost there.
//!
//! Facts that the machine does not tell are "unknown", null or 0. Nothing here fails a run but a probe that
//! cannot write or connect, as the nodes could not either. Gathering takes under a second, and at most five
//! on a slow or busy machine.
//!
//! What a run used is in [`crate::resources`]; what was asked is the plan.

mod machine;
mod mount;
mod probe;
mod utc;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use mount::Mount;

pub use probe::{FsyncProbe, LoopbackProbe, TimerProbe};
pub use utc::utc;

/// What stands for a word that the machine does not tell.
const UNKNOWN: &str = "unknown";

/// Under which conditions a report was made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// Of the harness, and so of the servers.
    pub version: String,
    /// Full hash of the commit that it was built from; "unknown" if it was not built in a git checkout.
    pub commit: String,
    /// Whether tracked files differed from that commit, as of the build: a change since the last build is
    /// not seen, nor one to a file that is neither source nor manifest. Null if the commit is unknown.
    pub dirty: Option<bool>,
    /// The compiler, as `rustc --version` names it.
    pub rustc: String,
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
    /// What decides about the clock of the first processor: "performance", "powersave" and the like;
    /// "unknown" where the clock is not the system's to decide, as in most virtual machines.
    pub cpu_governor: String,
    /// Processors that the harness and its nodes may use together.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Whether the processors are those of a virtual machine, which may have to share them; null if they do
    /// not tell, as those of other makes than x86.
    pub virtual_machine: Option<bool>,
    /// Maker and name of the machine, as its firmware tells them.
    pub machine: String,
    /// Where the nodes keep their data.
    pub data_dir: String,
    /// Type of the file system there.
    pub file_system: String,
    /// What is mounted there: a device, or the name that the file system gives itself.
    pub mount_device: String,
    /// How it is mounted: the options of the mount, then those of the file system.
    pub mount_options: String,
    /// What a sync costs there.
    pub fsync: FsyncProbe,
    /// What a round trip costs between two threads of this machine.
    pub loopback: LoopbackProbe,
    /// How late a sleeping thread wakes.
    pub timer: TimerProbe,
}

impl Environment {
    /// Looks around. Fails if nothing can be written to `data_dir`, which is wrong use, or if loopback
    /// connections do not work.
    pub fn gather(data_dir: &Path) -> Result<Self, Failure> {
        let system = rustix::system::uname();
        let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let cpuinfo = read("/proc/cpuinfo");
        let mount = Mount::of(&read("/proc/self/mountinfo"), &data_dir);
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("QUORATE_COMMIT").to_owned(),
            dirty: env!("QUORATE_DIRTY").parse().ok(),
            rustc: env!("QUORATE_RUSTC").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            time: utc(SystemTime::now()),
            os: system.sysname().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            cpu: machine::cpu_model(&cpuinfo),
            cpu_governor: known(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: machine::memory_bytes(&read("/proc/meminfo")),
            virtual_machine: machine::is_virtual(&cpuinfo),
            machine: known(&format!(
                "{} {}",
                read("/sys/class/dmi/id/sys_vendor").trim(),
                read("/sys/class/dmi/id/product_name").trim()
            )),
            file_system: mount.file_system,
            mount_device: mount.device,
            mount_options: mount.options,
            fsync: FsyncProbe::measure(&data_dir).map_err(|error| {
                Failure::WrongUse(format!("--data-dir {}: {error:#}", data_dir.display()))
            })?,
            loopback: LoopbackProbe::measure().context(
                "no connection can be made within this machine over 127.0.0.1, as the nodes need: \
                 bring up its loopback interface",
            )?,
            timer: TimerProbe::measure(),
            data_dir: data_dir.display().to_string(),
        })
    }

    /// Whether the nodes' data is in memory, where a sync costs nothing.
    pub fn data_is_in_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

/// A file of the system; empty if there is none.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// One word or line of the system, or that it is unknown.
fn known(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { UNKNOWN } else { text }.to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The conditions of a report that no machine made.
    pub(crate) fn environment() -> Environment {
        Environment {
            version: "0.1.0".to_owned(),
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            dirty: Some(false),
            rustc: "rustc 1.95.0".to_owned(),
            profile: "release".to_owned(),
            time: "2026-11-22T17:02:57Z".to_owned(),
            os: "Linux".to_owned(),
            kernel: "6.1.0".to_owned(),
            cpu: "Fast CPU".to_owned(),
            cpu_governor: "performance".to_owned(),
            cores: 2,
            memory_bytes: 8 << 30,
            virtual_machine: Some(false),
            machine: "Maker Model 1".to_owned(),
            data_dir: "/data".to_owned(),
            file_system: "ext4".to_owned(),
            mount_device: "/dev/vda".to_owned(),
            mount_options: "rw,relatime".to_owned(),
            fsync: FsyncProbe {
                syncs: 400,
                p10_us: 100,
                p50_us: 120,
                p90_us: 180,
                p99_us: 800,
                max_us: 1_200,
                settled: true,
            },
            loopback: LoopbackProbe { round_trips: 2_000, p10_us: 40, p50_us: 50, p99_us: 90 },
            timer: TimerProbe { sleeps: 200, p50_us: 60, p99_us: 120 },
        }
    }

    #[test]
    fn this_machine_tells_about_itself() {
        let directory = tempfile::tempdir().unwrap();
        let here = Environment::gather(directory.path()).unwrap();
        let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(here.commit == UNKNOWN || is_hash(&here.commit), "{}", here.commit);
        assert_eq!(here.dirty.is_some(), here.commit != UNKNOWN);
        assert!(here.rustc.starts_with("rustc "), "{}", here.rustc);
        assert!(here.cores > 0 && here.memory_bytes > 0 && here.file_system != UNKNOWN, "{here:?}");
        assert!(here.mount_options.starts_with('r'), "rw or ro: {}", here.mount_options);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the probes leave nothing behind");
    }

    #[test]
    fn a_data_directory_that_takes_nothing_is_wrong_use() {
        let nowhere = Environment::gather(Path::new("/proc/self/no/such"));
        let Err(Failure::WrongUse(advice)) = nowhere else { panic!("{nowhere:?}") };
        assert!(advice.starts_with("--data-dir /proc/self/no/such: nothing can be written"), "{advice}");
    }

    #[test]
    fn what_the_machine_does_not_tell_is_unknown() {
        assert_eq!([" \n", "performance\n", ""].map(known), ["unknown", "performance", "unknown"]);
        assert_eq!(read("/no/such/file"), "");
    }

    #[test]
    fn an_environment_reads_back_from_its_json() {
        let json = serde_json::to_string(&environment()).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&json).unwrap(), environment());
    }
}
