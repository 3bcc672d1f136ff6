//! The machine, from the files in which Linux describes it.

use super::UNKNOWN;

/// Model of the processors, from `/proc/cpuinfo`.
pub(super) fn cpu_model(cpuinfo: &str) -> String {
    field(cpuinfo, "model name").unwrap_or(UNKNOWN).to_owned()
}

/// Whether the processors say that a hypervisor runs them, from `/proc/cpuinfo`: a flag that only x86 has.
pub(super) fn is_virtual(cpuinfo: &str) -> Option<bool> {
    field(cpuinfo, "flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

/// Memory, from `/proc/meminfo`; 0 if it is not told.
pub(super) fn memory_bytes(meminfo: &str) -> u64 {
    let kibibytes = field(meminfo, "MemTotal").and_then(|value| value.trim_end_matches(" kB").parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024)
}

/// The value of the first `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_its_files() {
        assert_eq!(memory_bytes("MemFree: 3 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(memory_bytes(""), 0);
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Fast: 3\nmodel name\t: Slow\n"), "Fast: 3");
        assert_eq!(cpu_model("Processor : ARM\n"), "unknown");
    }

    #[test]
    fn a_virtual_machine_is_known_by_its_processors_flag() {
        assert_eq!(is_virtual("flags\t\t: fpu vme hypervisor lahf_lm\n"), Some(true));
        assert_eq!(is_virtual("flags\t\t: fpu vme nohypervisor\n"), Some(false));
        assert_eq!(is_virtual("Features : fp asimd\n"), None);
    }
}
