//! The answer in plain words, computed from the figures: what a quorum costs against the least one, how far the
//! followers lag, how systems compare, and whether everything was kept.

use super::rows::{Row, count, percent, rate, rows, sections, system, us};
use super::{Distribution, Report, Run};
use crate::plan::{Arrivals, System};
use crate::units::show_us;

/// Sections that are put in words; the table has the others.
const SECTIONS_MAX: usize = 4;

/// Part of a figure below which a change is called none.
const SAME: f64 = 0.005;

/// Part of the offered rate that counts as having kept up.
const KEPT_UP: f64 = 0.98;

/// The most important first. Never empty.
pub(super) fn sentences(report: &Report) -> Vec<String> {
    let rows = rows(report);
    if rows.is_empty() {
        return vec!["Nothing was measured.".to_owned()];
    }
    let mut sentences: Vec<String> = lost(report).into_iter().collect();
    sentences.extend(versus(&rows));
    let all: Vec<_> = sections(&rows).collect();
    for section in all.iter().take(SECTIONS_MAX) {
        sentences.extend(costs(section));
        sentences.extend(lag(section));
    }
    if all.len() > SECTIONS_MAX {
        sentences.push(format!("The table has {} more settings.", all.len() - SECTIONS_MAX));
    }
    sentences.extend(kept(report));
    sentences.push(certainty(&rows));
    sentences
}

/// What each quorum costs against the least one of a section.
fn costs(section: &[Row<'_>]) -> Vec<String> {
    let mut by_quorum: Vec<&Row<'_>> = section.iter().collect();
    by_quorum.sort_by_key(|row| row.case.quorum);
    let (least, others) = by_quorum.split_first().expect("a section has rows");
    let others: Vec<_> = others.iter().filter(|row| row.case.quorum > least.case.quorum).collect();
    if others.is_empty() {
        return vec![level(least)];
    }
    let cost = |(position, row): (usize, &&&Row<'_>)| {
        let begin = match (position, least.section.is_empty()) {
            (0, _) => format!("{}acknowledging at", place(least)),
            (_, true) => "Acknowledging at".to_owned(),
            (_, false) => "There, acknowledging at".to_owned(),
        };
        let (quorum, replicas) = (row.case.quorum, row.case.replicas);
        let latency = latency(least, row);
        let sentence = format!(
            "{begin} {quorum} of {replicas} replicas instead of {} {latency}; {}.",
            least.case.quorum,
            throughput(least, row)
        );
        capitalised(&sentence)
    };
    others.iter().enumerate().map(cost).collect()
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// What a single case did.
fn level(row: &Row<'_>) -> String {
    let offered =
        offered(row).map_or(String::new(), |offered| format!(" of {} offered", count(Some(offered))));
    let sentence = format!(
        "{}at {} of {} replicas {} writes/s were acknowledged{offered}; a write took {} at the median and {} at the \
         99th percentile.",
        place(row),
        row.case.quorum,
        row.case.replicas,
        count(row.writes_per_second()),
        us(row.latency_us(|latency| latency.p50)),
        us(row.latency_us(|latency| latency.p99)),
    );
    capitalised(&sentence)
}

/// Under which of several settings: the beginning of a sentence.
fn place(row: &Row<'_>) -> String {
    if row.section.is_empty() { String::new() } else { format!("With {}: ", row.section) }
}

/// What a quorum does to the latency of writes.
fn latency(before: &Row<'_>, after: &Row<'_>) -> String {
    let at = |figure: fn(&Distribution) -> f64| Some((before.latency_us(figure)?, after.latency_us(figure)?));
    let (Some(median), Some(p99)) = (at(|latency| latency.p50), at(|latency| latency.p99)) else {
        return "cannot be compared, as one of the two acknowledged nothing".to_owned();
    };
    let (verb, median) = change(median);
    let (verb_p99, p99) = change(p99);
    let verb_p99 = if verb == verb_p99 { String::new() } else { format!("{verb_p99} ") };
    format!("{verb} {median} at the median write and {verb_p99}{p99} at the 99th percentile")
}

/// What is done to a latency, and how much.
fn change((before, after): (f64, f64)) -> (&'static str, String) {
    let part = (after - before) / before.max(1.0);
    let how_much = format!(
        "{} ({} %; {} → {})",
        show_us((after - before).abs().round() as u64),
        percent(part.abs()),
        us(Some(before)),
        us(Some(after))
    );
    match part {
        _ if part.abs() < SAME => ("costs", format!("nothing ({})", us(Some(after)))),
        _ if part > 0.0 => ("costs", how_much),
        _ => ("saves", how_much),
    }
}

/// In a closed loop the servers' speed decides how much is written; in an open one what is offered, which they
/// keep up with or not.
fn throughput(before: &Row<'_>, after: &Row<'_>) -> String {
    let (from, to) = (before.writes_per_second().unwrap_or(0.0), after.writes_per_second().unwrap_or(0.0));
    if let Some(offered) = offered(after) {
        let (offered_shown, to_shown) = (count(Some(offered)), count(Some(to)));
        return match to < offered * KEPT_UP {
            true => format!("of {offered_shown} writes/s offered only {to_shown} were acknowledged"),
            false => format!("{to_shown} of {offered_shown} writes/s offered were acknowledged"),
        };
    }
    let part = (to - from) / from.max(1.0);
    let (from, to) = (count(Some(from)), count(Some(to)));
    match part {
        _ if part.abs() < SAME => format!("throughput stays at {to}/s"),
        _ if part < 0.0 => format!("throughput falls by {} %, from {from}/s to {to}/s", percent(-part)),
        _ => format!("throughput rises by {} %, from {from}/s to {to}/s", percent(part)),
    }
}

/// Writes per second that an open loop offered.
fn offered(row: &Row<'_>) -> Option<f64> {
    match row.case.load.arrivals {
        Arrivals::Closed => None,
        Arrivals::Open { per_second, .. } => Some(per_second * (1.0 - row.case.load.reads)),
    }
}

/// How far the followers of a section were behind, at all its quorums.
fn lag(section: &[Row<'_>]) -> Option<String> {
    let followers: Vec<_> = section.iter().flat_map(Row::followers).collect();
    let range = |figures: Vec<f64>| {
        let (least, most) =
            (figures.iter().copied().reduce(f64::min)?, figures.into_iter().reduce(f64::max)?);
        let (least, most) = (us(Some(least)), us(Some(most)));
        Some(if least == most { least } else { format!("{least} to {most}") })
    };
    let median = range(followers.iter().filter_map(|follower| follower.lag_p50_us).collect())?;
    let p99 = range(followers.iter().filter_map(|follower| follower.lag_p99_us).collect())?;
    let behind = followers.iter().filter_map(|follower| follower.entries_behind_max).reduce(f64::max);
    Some(format!(
        "{}ollowers hold a write durably {median} after the leader got it (median), and 99 of 100 writes within {p99}; \
         at worst a follower was {} entries behind.",
        if section[0].section.is_empty() { "F" } else { "There, f" },
        count(behind)
    ))
}

/// Systems side by side, where several were measured at the same quorum.
fn versus(rows: &[Row<'_>]) -> Vec<String> {
    let mut quorums: Vec<_> = rows.iter().map(|row| (row.case.quorum, row.case.replicas)).collect();
    quorums.sort_unstable();
    quorums.dedup();
    quorums.into_iter().filter_map(|(quorum, replicas)| side_by_side(rows, quorum, replicas)).collect()
}

fn side_by_side(rows: &[Row<'_>], quorum: u8, replicas: u8) -> Option<String> {
    let same = |row: &&Row<'_>| (row.case.quorum, row.case.replicas) == (quorum, replicas);
    let mut measured: Vec<_> = rows.iter().filter(same).collect();
    let peers = measured.iter().filter(|row| matches!(row.case.system, System::Peer(_))).count();
    if peers == 0 || measured.len() < 2 {
        return None;
    }
    measured.sort_by(|one, other| {
        other.writes_per_second().partial_cmp(&one.writes_per_second()).expect("finite")
    });
    let of: Vec<_> = measured
        .into_iter()
        .map(|row| {
            let name = if row.section.is_empty() { system(&row.case.system) } else { row.section.clone() };
            let (p50, p99) = (row.latency_us(|latency| latency.p50), row.latency_us(|latency| latency.p99));
            format!("{name} {} writes/s (median {}, p99 {})", rate(row), us(p50), us(p99))
        })
        .collect();
    Some(format!("At {quorum} of {replicas}: {}.", of.join("; ")))
}

/// Lost writes come before everything else.
fn lost(report: &Report) -> Option<String> {
    let unclean = |run: &&Run| run.verified.as_ref().is_some_and(|verified| !verified.is_clean());
    let first = report.runs.iter().find(unclean)?;
    Some(format!(
        "ACKNOWLEDGED WRITES WERE LOST, OR REPLICAS DIFFER ({}): the other figures count for little.",
        first.label()
    ))
}

/// What was verified, if all is well.
fn kept(report: &Report) -> Option<String> {
    let verified: Vec<_> = report.runs.iter().filter_map(|run| run.verified.as_ref()).collect();
    let keys: u64 = verified.iter().map(|verified| verified.keys).sum();
    if verified.is_empty() || verified.iter().any(|verified| !verified.is_clean()) {
        return None;
    }
    let runs = match verified.len() == report.runs.len() {
        true => String::new(),
        false => format!(" of the {} of {} runs that were verified", verified.len(), report.runs.len()),
    };
    Some(format!(
        "Nothing was lost: all that was acknowledged was read back from every replica afterwards ({} keys{runs}).",
        count(Some(keys as f64))
    ))
}

/// How much chance is in the figures.
fn certainty(rows: &[Row<'_>]) -> String {
    let repeats = rows.iter().map(|row| row.runs.len()).max().unwrap_or(0);
    let spread = rows.iter().filter_map(Row::spread).reduce(f64::max);
    match spread {
        None => {
            "Each case was measured once, so small differences may be chance: --repeats 5 shows how much."
                .to_owned()
        }
        Some(spread) => format!(
            "Figures are medians of up to {repeats} repeats, whose rates were within {} % of their median: smaller \
             differences may be chance.",
            percent(spread)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{report, run, whole};
    use super::*;
    use crate::peers::PeerKind;
    use crate::plan::Spacing;
    use crate::verify::Verified;

    fn of(runs: Vec<Run>) -> String {
        let mut report = report();
        report.runs = runs;
        report.close(Ok(()));
        sentences(&report).join("\n")
    }

    /// Quorum n with a median, a 99th percentile and a rate.
    fn measured(quorum: u8, p50_us: f64, p99_us: f64, rate: f64) -> Run {
        let mut run = run(quorum);
        (run.writes.latency_us.p50, run.writes.latency_us.p99, run.writes.per_second) =
            (p50_us, p99_us, rate);
        run
    }

    #[test]
    fn a_quorum_is_told_by_what_it_costs_against_the_least() {
        let said = of(vec![
            measured(1, 1_500.0, 3_000.0, 41_438.0),
            measured(2, 1_700.0, 2_700.0, 38_832.0),
            measured(3, 1_503.0, 6_000.0, 41_438.0),
        ]);
        for phrase in [
            "Acknowledging at 2 of 3 replicas instead of 1 costs 200 µs (13 %; 1.50 ms → 1.70 ms) at the median write \
             and saves 300 µs (10 %; 3.00 ms → 2.70 ms) at the 99th percentile",
            "throughput falls by 6.3 %, from 41,438/s to 38,832/s",
            "Acknowledging at 3 of 3 replicas instead of 1 costs nothing (1.50 ms) at the median write and 3.00 ms (100 %;",
            "throughput stays at 41,438/s",
        ] {
            assert!(said.contains(phrase), "{phrase}: {said}");
        }
    }

    #[test]
    fn lag_is_told_as_a_range_over_followers() {
        let said = sentences(&whole()).join("\n");
        assert!(said.contains("Followers hold a write durably ") && said.contains(" µs to "), "{said}");
        assert!(said.contains("at worst a follower was 512 entries behind"), "{said}");
    }

    #[test]
    fn a_single_quorum_is_told_by_its_level() {
        let said = of(vec![measured(2, 1_700.0, 2_700.0, 38_832.0)]);
        assert!(
            said.starts_with("At 2 of 3 replicas 38,832 writes/s were acknowledged; a write took 1.70 ms"),
            "{said}"
        );
    }

    #[test]
    fn an_open_loop_is_told_by_what_was_offered() {
        let open = |quorum, rate| {
            let mut run = measured(quorum, 1_000.0, 2_000.0, rate);
            run.case.load.arrivals = Arrivals::Open { per_second: 20_000.0, spacing: Spacing::Poisson };
            run
        };
        let said = of(vec![open(1, 19_998.0), open(2, 12_000.0), open(3, 20_000.0)]);
        assert!(said.contains("of 20,000 writes/s offered only 12,000 were acknowledged"), "{said}");
        assert!(said.contains("20,000 of 20,000 writes/s offered were acknowledged"), "{said}");
        assert!(!said.contains("throughput"), "{said}");
    }

    #[test]
    fn systems_are_told_side_by_side() {
        let mut redis = measured(2, 2_700.0, 9_000.0, 22_000.0);
        (redis.case.system, redis.case_number) = (System::Peer(PeerKind::Redis), 1);
        redis.followers.clear();
        redis.verified = None;
        let said = of(vec![redis, measured(2, 1_150.0, 3_000.0, 53_000.0)]);
        assert!(
            said.starts_with(
                "At 2 of 3: quorate 53,000 writes/s (median 1.15 ms, p99 3.00 ms); redis 22,000"
            ),
            "{said}"
        );
        assert!(said.contains("of the 1 of 2 runs that were verified"), "{said}");
    }

    #[test]
    fn lost_writes_come_first() {
        let mut lossy = run(2);
        lossy.verified = Some(Verified { lost: 1, ..Verified::default() });
        let said = of(vec![run(1), lossy]);
        assert!(said.starts_with("ACKNOWLEDGED WRITES WERE LOST"), "{said}");
        assert!(!said.contains("nothing was lost"), "{said}");
    }

    #[test]
    fn repeats_tell_how_much_is_chance() {
        let said = of(vec![measured(2, 1.0, 2.0, 900.0), measured(2, 1.0, 2.0, 1_000.0)]);
        assert!(said.contains("medians of up to 2 repeats, whose rates were within 5.3 %"), "{said}");
        assert_eq!(of(Vec::new()), "Nothing was measured.");
    }
}
