//! Every case in detail: outcomes, the generator's schedule, nodes, lag by stages, the floor, and another system's
//! own words. Closed until somebody opens them, and open on paper.

use super::super::remarks::catch_up;
use super::super::rows::{NOT_MEASURED, Row, count, percent, us};
use super::super::{Calls, Distribution, Node, Run};
use super::{Escaped, Page};
use crate::units::{show_bytes, show_count};

pub(super) fn write(page: &mut Page, rows: &[Row<'_>]) {
    page.html("<section>\n<h2>Every case in detail</h2>\n");
    for row in rows {
        page.html(format_args!("<details>\n<summary>{}</summary>\n", Escaped(&row.name)));
        case(page, row);
        page.html("</details>\n");
    }
    page.html("</section>\n");
}

fn case(page: &mut Page, row: &Row<'_>) {
    page.text("p", format!("{}; {}.", row.case, row.case.load));
    if row.runs.len() > 1 {
        repeats(page, row);
        page.text(
            "p",
            format!("What follows is of repeat {}, whose rate is the median.", row.typical().repeat),
        );
    }
    let run = row.typical();
    outcomes(page, run);
    generator(page, run);
    followers(page, run);
    nodes(page, run);
    machine(page, run);
    floor(page, run);
    page.list("", run.catch_ups.iter().map(|way_back| format!("{}.", catch_up(way_back))));
    page.list("", run.events.iter().map(|event| format!("At {:.2} s: {}.", event.t_s, event.what)));
    if let Some(peer) = &run.peer {
        page.text(
            "p",
            format!("{} {}, {} servers. {}", peer.name, peer.version, peer.servers, peer.acknowledgement),
        );
        page.list("", peer.settings.iter().cloned());
    }
}

fn repeats(page: &mut Page, row: &Row<'_>) {
    let lines = row.runs.iter().map(|run| {
        let latency = &run.writes.latency_us;
        [
            run.repeat.to_string(),
            count(Some(run.writes.per_second)),
            of(latency, |l| l.p50),
            of(latency, |l| l.p99),
        ]
    });
    page.table("Repeats", ["repeat", "writes/s", "p50", "p99"], lines);
}

fn outcomes(page: &mut Page, run: &Run) {
    let line = |kind: &str, calls: &Calls| {
        let latency = &calls.latency_us;
        [
            kind.to_owned(),
            show_count(calls.acknowledged),
            show_count(calls.refused),
            show_count(calls.unknown),
            of(latency, |latency| latency.mean),
            of(latency, |latency| latency.min),
            of(latency, |latency| latency.p99_99),
            of(latency, |latency| latency.max),
        ]
    };
    let lines = std::iter::once(line("writes", &run.writes))
        .chain(run.reads.iter().map(|reads| line("reads", reads)));
    let header = ["calls", "acknowledged", "refused", "unknown", "mean", "min", "p99.99", "max"];
    page.table(&format!("Outcomes within {:.1} s", run.duration_s), header, lines);
    let reasons = run.writes.reasons.iter().chain(run.reads.iter().flat_map(|reads| &reads.reasons));
    page.list("", reasons.map(|(reason, calls)| format!("{}: {reason}", show_count(*calls))));
}

fn generator(page: &mut Page, run: &Run) {
    let generator = &run.generator;
    let judged = match generator.fell_behind {
        true => "It fell behind, and may have shaped the figures.",
        false => "It kept its schedule.",
    };
    page.text(
        "p",
        format!(
            "Load generator: {} calls were due and {} were made; {} were due while every client had as many unanswered \
             as it may, and {} left more than a millisecond late although a client was free (p99 of the delay {}). \
             {judged}",
            show_count(generator.scheduled),
            show_count(generator.issued),
            show_count(generator.waited_for_slot),
            show_count(generator.late),
            of(&generator.schedule_lag_us, |lag| lag.p99),
        ),
    );
}

fn followers(page: &mut Page, run: &Run) {
    if run.followers.is_empty() {
        return;
    }
    let lines = run.followers.iter().map(|follower| {
        let lag = |figure| optional(follower.lag_us.as_ref(), figure);
        let mean = |stage: Option<&Distribution>| optional(stage, |stage| stage.mean);
        let stages = follower.stages.as_ref();
        [
            follower.node.to_string(),
            lag(|lag| lag.mean),
            mean(stages.map(|stages| &stages.queue_us)),
            mean(stages.map(|stages| &stages.network_us)),
            mean(stages.map(|stages| &stages.disk_us)),
            mean(stages.map(|stages| &stages.sync_us)),
            mean(stages.map(|stages| &stages.apply_us)),
            lag(|lag| lag.max),
            show_bytes(follower.bytes_behind_max),
            optional(follower.visible_us.as_ref(), |visible| visible.p50),
            optional(follower.visible_us.as_ref(), |visible| visible.p99),
        ]
    });
    let header = [
        "node",
        "mean lag",
        "queue",
        "network",
        "disk",
        "of it sync",
        "apply",
        "max lag",
        "behind",
        "visible p50",
        "visible p99",
    ];
    page.table("Lag of each follower", header, lines);
}

fn nodes(page: &mut Page, run: &Run) {
    if run.nodes.is_empty() {
        return;
    }
    let header = [
        "node",
        "CPU",
        "CPU per write",
        "memory",
        "disk per write",
        "syncs",
        "entries per sync",
        "sync p50",
        "sync p99",
        "log busy",
    ];
    page.table("What each node used", header, run.nodes.iter().map(|node| node_cells(node, run.duration_s)));
}

fn node_cells(node: &Node, duration_s: f64) -> [String; 10] {
    let log = node.log.as_ref();
    let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| NOT_MEASURED.to_owned());
    [
        format!("{}{}", node.node, if node.leader { " leads" } else { "" }),
        or_dash(
            node.usage
                .as_ref()
                .filter(|_| duration_s > 0.0)
                .map(|usage| format!("{} % of a core", percent(usage.cpu_s() / duration_s))),
        ),
        or_dash(node.cpu_us_per_write.map(|us| format!("{us:.1} µs"))),
        or_dash(node.usage.as_ref().map(|usage| show_bytes(usage.rss_peak_bytes))),
        or_dash(node.disk_bytes_per_write.map(|bytes| show_bytes(bytes.round() as u64))),
        or_dash(log.map(|log| show_count(log.syncs))),
        or_dash(log.filter(|log| log.syncs > 0).map(|log| format!("{:.1}", log.batch_entries.mean))),
        optional(log.map(|log| &log.sync_us), |sync| sync.p50),
        optional(log.map(|log| &log.sync_us), |sync| sync.p99),
        or_dash(log.map(|log| format!("{} %", percent(log.busy)))),
    ]
}

fn machine(page: &mut Page, run: &Run) {
    let Some(machine) = &run.machine else { return };
    let harness = run.harness.as_ref().map_or(String::new(), |harness| {
        format!(" The harness itself used {:.1} s of processor time.", harness.cpu_s())
    });
    let others = run
        .others_share
        .map_or(String::new(), |share| format!(" Other programs used {} % of the machine.", percent(share)));
    page.text(
        "p",
        format!(
            "Of all {} processors {} % of the time was work, {} % waiting for a disk, and {} % was taken by the host of \
             a virtual machine.{harness}{others}",
            machine.cores,
            percent(machine.busy_share),
            percent(machine.iowait_share),
            percent(machine.steal_share)
        ),
    );
}

fn floor(page: &mut Page, run: &Run) {
    let Some(floor) = &run.floor else { return };
    let parts: Vec<_> =
        floor.parts.iter().map(|part| format!("{} {}", part.name, us(Some(part.us as f64)))).collect();
    page.text("p", format!("Floor: {}, made of {}.", us(Some(floor.latency_us as f64)), parts.join(", ")));
}

/// A figure of microseconds; a dash if there were no numbers.
fn of(distribution: &Distribution, figure: fn(&Distribution) -> f64) -> String {
    us((distribution.count > 0).then(|| figure(distribution)))
}

fn optional(distribution: Option<&Distribution>, figure: fn(&Distribution) -> f64) -> String {
    distribution.map_or(NOT_MEASURED.to_owned(), |distribution| of(distribution, figure))
}
