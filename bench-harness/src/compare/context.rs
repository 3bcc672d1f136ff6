//! Where the conditions of two reports differ.

use super::Remark;
use crate::environment::Environment;
use crate::report::{Report, State};
use crate::units::{show_bytes, show_us};

/// How far a probe may differ before it is worth a remark: equal machines differ by less.
const PROBE_RATIO_REMARKED: f64 = 1.25;

/// Something that a report tells of its conditions, and how much it matters.
type Fact = (&'static str, Weight, fn(&Environment) -> String);

/// A time that was probed, in microseconds.
type Probe = (&'static str, fn(&Environment) -> u64);

/// What a difference says about the comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Perhaps the very thing that is compared.
    Note,
    /// Figures change with it, whatever the code does.
    Warning,
    /// The machines are not the same.
    Machine,
}

const FACTS: [Fact; 14] = [
    ("version", Weight::Note, |here| here.version.clone()),
    ("commit", Weight::Note, commit),
    ("compiler", Weight::Note, |here| here.rustc.clone()),
    ("profile", Weight::Warning, |here| here.profile.clone()),
    ("machine", Weight::Machine, |here| here.machine.clone()),
    ("processors", Weight::Machine, |here| format!("{} × {}", here.cores, here.cpu)),
    ("memory", Weight::Machine, |here| show_bytes(here.memory_bytes)),
    ("virtual machine", Weight::Machine, |here| {
        here.virtual_machine.map_or("unknown", |is| if is { "yes" } else { "no" }).to_owned()
    }),
    ("system", Weight::Note, |here| format!("{} {}", here.os, here.kernel)),
    ("processor clock", Weight::Warning, |here| here.cpu_governor.clone()),
    ("file system", Weight::Warning, |here| here.file_system.clone()),
    ("device of the data", Weight::Note, |here| here.mount_device.clone()),
    ("mount options", Weight::Note, |here| here.mount_options.clone()),
    ("directory of the data", Weight::Note, |here| here.data_dir.clone()),
];

const PROBES: [Probe; 3] = [
    ("median sync", |here| here.fsync.p50_us),
    ("median round trip", |here| here.loopback.p50_us),
    ("median lateness of a short sleep", |here| here.timer.p50_us),
];

/// All that differs between two reports but their figures, what weighs most first.
pub(super) fn differences(before: &Report, after: &Report) -> Vec<Remark> {
    let mut remarks = environment(&before.environment, &after.environment);
    if before.plan.seed != after.plan.seed {
        let (before, after) = (before.plan.seed, after.plan.seed);
        remarks.push(Remark::note(format!("seed: {before} in A, {after} in B")));
    }
    remarks.extend(state(before, "A"));
    remarks.extend(state(after, "B"));
    remarks.sort_by_key(|remark| !remark.warning);
    remarks
}

fn environment(before: &Environment, after: &Environment) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut is_other_machine = false;
    for (name, weight, fact) in FACTS {
        let (before, after) = (fact(before), fact(after));
        if before == after {
            continue;
        }
        is_other_machine |= weight == Weight::Machine;
        remarks.push(Remark { warning: weight != Weight::Note, text: differing(name, &before, &after) });
    }
    if is_other_machine {
        let text = "DIFFERENT MACHINES: a change may be theirs and not that of the code".to_owned();
        remarks.insert(0, Remark::warning(text));
    }
    for (name, probe) in PROBES {
        let (before, after) = (probe(before), probe(after));
        let (low, high) = (before.min(after) as f64, before.max(after) as f64);
        if high > low * PROBE_RATIO_REMARKED {
            remarks.push(Remark::note(differing(name, &show_us(before), &show_us(after))));
        }
    }
    if before.profile == "debug" && after.profile == "debug" {
        remarks.push(Remark::warning("both are of debug builds, whose figures mean little".to_owned()));
    }
    remarks
}

fn differing(name: &str, before: &str, after: &str) -> String {
    format!("{name}: {before} in A, {after} in B")
}

fn commit(here: &Environment) -> String {
    let changed = if here.dirty == Some(true) { " with changes" } else { "" };
    format!("{}{changed}", here.commit.get(..12).unwrap_or(&here.commit))
}

/// A report that holds less than its plan.
fn state(report: &Report, name: &str) -> Option<Remark> {
    let what = match report.state {
        State::Complete => return None,
        State::Running => "was never finished",
        State::Interrupted => "was interrupted",
        State::Failed => "failed",
    };
    Some(Remark::warning(format!("{name} {what}: not all that was planned is in it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn texts(before: &Report, after: &Report) -> Vec<String> {
        differences(before, after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_conditions_need_no_remark() {
        assert!(texts(&sample::whole(), &sample::whole()).is_empty());
    }

    #[test]
    fn another_commit_is_a_note_and_another_machine_a_warning_that_comes_first() {
        let mut after = sample::whole();
        after.environment.commit = "fedcba9876543210".to_owned();
        after.environment.dirty = Some(true);
        after.environment.cores = 64;
        assert_eq!(
            texts(&sample::whole(), &after),
            [
                "WARNING: DIFFERENT MACHINES: a change may be theirs and not that of the code",
                "WARNING: processors: 2 × Fast CPU in A, 64 × Fast CPU in B",
                "commit: 0123456789ab in A, fedcba987654 with changes in B",
            ]
        );
    }

    #[test]
    fn a_probe_that_differs_by_less_than_a_quarter_is_no_difference() {
        let mut after = sample::whole();
        after.environment.fsync.p50_us = 149;
        assert!(texts(&sample::whole(), &after).is_empty());
        after.environment.fsync.p50_us = 240;
        after.environment.file_system = "xfs".to_owned();
        assert_eq!(
            texts(&sample::whole(), &after),
            ["WARNING: file system: ext4 in A, xfs in B", "median sync: 120 µs in A, 240 µs in B"]
        );
    }

    #[test]
    fn a_report_that_is_not_whole_says_so() {
        let mut after = sample::whole();
        after.state = State::Running;
        after.plan.seed = 2;
        assert_eq!(
            texts(&sample::whole(), &after),
            ["WARNING: B was never finished: not all that was planned is in it", "seed: 1 in A, 2 in B"]
        );
    }
}
