//! Where and what was measured, how to repeat it, and what the words mean.

use super::super::Report;
use super::super::rows::{percent, us};
use super::{Escaped, Page};
use crate::units::{counted, format_duration, show_bytes};

/// Words of the page, for who does not know them.
const GLOSSARY: [(&str, &str); 11] = [
    (
        "replica",
        "a node that holds a full copy of the data. One of them leads: it takes all writes and sends them to \
                 the others, its followers.",
    ),
    (
        "quorum",
        "the number of replicas, the leader included, that must hold a write durably before its client is \
                told that it is done. 1 is asynchronous replication, all of them is fully synchronous.",
    ),
    (
        "durable",
        "synced to the disk (fsync), so that a power cut does not take it; with durability os, given to the \
                 operating system, which survives a killed process but not a power cut.",
    ),
    ("latency", "the time from when a client's write was due to when its answer was there."),
    (
        "p50, p99, p99.9",
        "percentiles: the latency that 50, 99 or 99.9 of a hundred calls did not exceed. p50 is the \
                         median. High percentiles are what unlucky callers see.",
    ),
    (
        "lag",
        "how far a follower is behind: the time from a write's append at the leader to when the follower's \
             durable copy is known there, measured on the leader's clock alone.",
    ),
    (
        "closed loop",
        "clients that call again as soon as they are answered. A slow server is asked less, so the load \
                     gives way to it.",
    ),
    (
        "open loop",
        "calls that come at a given rate, whether or not earlier ones are answered, as those of many \
                   independent users do.",
    ),
    (
        "coordinated omission",
        "the mistake of not counting the wait of calls that could not be made while a server \
                              stood still. Here latency counts from when a call was due, not from when it was sent.",
    ),
    (
        "floor",
        "the least that a write can take on this machine, made of a round trip and a sync measured before.",
    ),
    (
        "unknown outcome",
        "a call that was not answered in time: it may have happened or not, and is never called a \
                         failure.",
    ),
];

/// Which code and machine, for the head of the page.
pub(super) fn in_one_line(report: &Report) -> String {
    let environment = &report.environment;
    format!(
        "Quorate {} on {} × {}, {} ({} with a sync of {} at the median); {}.",
        environment.version,
        environment.cores,
        environment.cpu,
        show_bytes(environment.memory_bytes),
        environment.file_system,
        us(Some(environment.fsync.p50_us as f64)),
        environment.time
    )
}

pub(super) fn write(page: &mut Page, report: &Report) {
    page.html("<section>\n<h2>Where, and how to repeat it</h2>\n");
    environment(page, report);
    plan(page, report);
    page.html("</section>\n<section>\n<h2>Words</h2>\n<dl>\n");
    for (word, meaning) in GLOSSARY {
        page.html(format_args!("<dt>{}</dt><dd>{}</dd>\n", Escaped(word), Escaped(meaning)));
    }
    page.html("</dl>\n</section>\n");
}

fn environment(page: &mut Page, report: &Report) {
    let here = &report.environment;
    let yes_or_no = |answer: Option<bool>| match answer {
        None => "unknown",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let lines = [
        ("Quorate", format!("{} ({} build, {})", here.version, here.profile, here.rustc)),
        ("commit", format!("{}; changed since: {}", here.commit, yes_or_no(here.dirty))),
        ("began", here.time.clone()),
        ("system", format!("{} {}", here.os, here.kernel)),
        ("processors", format!("{} × {} (governor: {})", here.cores, here.cpu, here.cpu_governor)),
        ("memory", show_bytes(here.memory_bytes)),
        ("machine", format!("{}; virtual: {}", here.machine, yes_or_no(here.virtual_machine))),
        (
            "data in",
            format!(
                "{} ({} on {}, {})",
                here.data_dir, here.file_system, here.mount_device, here.mount_options
            ),
        ),
        (
            "a sync",
            format!(
                "{} median, {} to {} (10th to 99th percentile of {}); disk at rest: {}",
                us(Some(here.fsync.p50_us as f64)),
                us(Some(here.fsync.p10_us as f64)),
                us(Some(here.fsync.p99_us as f64)),
                here.fsync.syncs,
                yes_or_no(Some(here.fsync.settled))
            ),
        ),
        (
            "a round trip",
            format!(
                "{} median, {} at the 99th percentile, over loopback",
                us(Some(here.loopback.p50_us as f64)),
                us(Some(here.loopback.p99_us as f64))
            ),
        ),
        (
            "a sleep",
            format!(
                "ends {} late at the median, {} at the 99th percentile",
                us(Some(here.timer.p50_us as f64)),
                us(Some(here.timer.p99_us as f64))
            ),
        ),
    ];
    page.html("<div class=\"words\">\n");
    page.table("Conditions", ["what", "here"], lines.map(|(what, here)| [what.to_owned(), here]));
    page.html("</div>\n");
}

fn plan(page: &mut Page, report: &Report) {
    let plan = &report.plan;
    let order = if plan.shuffle { "in an order drawn from the seed" } else { "in their order" };
    page.text(
        "p",
        format!(
            "{}, each measured {} {order}, on a fresh cluster; seed {}. Loading takes {} in all.",
            counted(plan.cases.len() as u64, "case"),
            if plan.repeats == 1 { "once".to_owned() } else { format!("{} times", plan.repeats) },
            plan.seed,
            format_duration(plan.load_time())
        ),
    );
    let cases = plan.cases.iter().map(|case| {
        let faults: String = case.faults.iter().map(|fault| format!("; {fault}")).collect();
        let load = &case.load;
        let times = format!("{} after {}", format_duration(load.duration), format_duration(load.warmup));
        let reads =
            if load.reads > 0.0 { format!(" ({} % reads)", percent(load.reads)) } else { String::new() };
        format!("{case}: {load}{reads}, {times} of warm-up{faults}")
    });
    page.list("", cases);
    page.html(
        "<p>To repeat it, take the plan.json beside this page, or save what is below under that name, and run \
         <code>bench-harness --plan plan.json</code></p>\n<details>\n<summary>plan.json</summary>\n<pre>",
    );
    page.html(Escaped(plan.json()));
    page.html("</pre>\n</details>\n");
}
