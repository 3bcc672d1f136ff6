//! The page as text, and as a browser shows it where one is installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::super::rows::NOT_MEASURED;
use super::super::sample::{large, report, run, run_with_a_pause, whole};
use super::super::{CatchUp, Event};
use super::*;

/// Width of a phone, in pixels.
const PHONE: u32 = 390;

/// Least height of letters in pictures there, in pixels.
const LETTERS_MIN: f64 = 10.0;

fn count_of(page: &str, what: &str) -> usize {
    page.matches(what).count()
}

fn figures_of(page: &str) -> usize {
    count_of(page, "<figure>")
}

#[test]
fn the_page_answers_what_a_quorum_costs_and_how_far_followers_lag() {
    let page = render(&whole());
    for phrase in [
        "Acknowledging at 2 of 3 replicas instead of 1",
        "Acknowledging at 3 of 3 replicas instead of 1",
        "Followers hold a write durably",
        "<h2>The cases</h2>",
        "<th scope=\"row\">2 of 3</th>",
        "<th scope=\"row\">2 of 3, node 3</th>",
        "The floor is the time",
        "Write latency by percentile",
        "Where the lag of each follower comes from",
        "bench-harness --plan plan.json",
        "coordinated omission",
        "0123456789abcdef0123456789abcdef01234567",
    ] {
        assert!(page.contains(phrase), "{phrase}");
    }
}

#[test]
fn a_section_is_there_only_if_there_is_something_for_it() {
    let page = render(&whole());
    assert!(!page.contains("What to know before") && !page.contains("<caption>Reads</caption>"));
    assert!(
        render(&large()).contains("What to know before")
            && render(&large()).contains("<caption>Reads</caption>")
    );
    let nothing = render(&report());
    assert!(nothing.contains("Nothing was measured.") && !nothing.contains("<figure>"));
}

#[test]
fn every_picture_has_a_title_an_explanation_and_no_broken_number() {
    for report in [whole(), large()] {
        let page = render(&report);
        let figures = figures_of(&page);
        assert!(figures >= 9, "{figures}");
        assert_eq!(count_of(&page, "role=\"img\""), figures);
        assert_eq!(count_of(&page, "<figcaption>"), figures);
        assert_eq!(count_of(&page, "<desc id="), figures);
        assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains(">inf"));
    }
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let page = render(&large());
    for address in ["src=", "href=", "url(http", "url(/", "@import", "<script", "<link"] {
        assert!(!page.contains(address), "{address}");
    }
}

#[test]
fn what_others_wrote_is_text_wherever_it_stands() {
    let evil = "<script>alert('x\"&')</script>".to_owned();
    let mut report = large();
    report.environment.cpu = evil.clone();
    report.environment.mount_options = evil.clone();
    report.error = Some(evil.clone());
    report.state = super::super::State::Failed;
    for run in &mut report.runs {
        run.events.push(Event { t_s: 7.0, what: evil.clone() });
        run.writes.reasons.insert(evil.clone(), 3);
        run.writes.refused = 3;
    }
    report.runs.last_mut().unwrap().peer.as_mut().unwrap().settings.push(evil);
    let page = render(&report);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&#39;x&quot;&amp;&#39;)"));
}

#[test]
fn a_case_in_detail_has_its_nodes_and_its_way_back() {
    let mut report = report();
    report.runs = vec![run(1), run_with_a_pause()];
    report.runs[1].catch_ups.push(CatchUp { node: 2, t_s: 6.0, entries: 1, bytes: 1, drained_s: None });
    let page = render(&report);
    for phrase in [
        "What each node used",
        "1 leads",
        "52 % of a core",
        "At 2.50 s: pause 3.",
        "caught up within 0.4 s",
        "had not caught up",
        "the leader&#39;s sync 120 µs",
    ] {
        assert!(page.contains(phrase), "{phrase}");
    }
    assert!(render(&large()).contains("appendfsync always"));
}

#[test]
fn a_cluster_on_other_machines_has_no_figures_of_usage() {
    let mut report = whole();
    for run in &mut report.runs {
        (run.machine, run.harness, run.others_share, run.floor) = (None, None, None, None);
        for node in &mut run.nodes {
            (node.usage, node.cpu_us_per_write, node.disk_bytes_per_write) = (None, None, None);
        }
    }
    let page = render(&report);
    assert!(
        !page.contains("of a core") && !page.contains("The floor is the time") && page.contains(NOT_MEASURED)
    );
}

/// The page within a frame as wide as a phone, with a script that tells what came of it in the title.
fn framed(page: &str) -> String {
    format!(
        "<!doctype html><title></title><iframe width=\"{PHONE}\" height=\"800\" style=\"border:0\" srcdoc=\"{}\"></iframe>
<script>
addEventListener('load', () => {{
  const page = document.querySelector('iframe').contentDocument;
  const pictures = [...page.querySelectorAll('figure > svg')];
  const letters = pictures.flatMap(svg => [...svg.querySelectorAll('text')].map(text =>
    parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width));
  const outside = pictures.flatMap(svg => [...svg.querySelectorAll('text')].filter(text => {{
    const [inner, outer] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
    return inner.left < outer.left - 1 || inner.right > outer.right + 1;
  }}));
  document.title = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    screen: page.documentElement.clientWidth,
    headline: page.querySelectorAll('.headline li').length,
    pictures: pictures.length,
    letters: Math.min(...letters),
    outside: outside.map(text => text.textContent).join(' '),
  }});
}});
</script>",
        Escaped(page)
    )
}

/// A browser that can be driven from a command line.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.is_file())
}

/// The document as the browser has it when the page is loaded.
fn dom(browser: &PathBuf, page: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    fs::write(&file, page).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn on_a_phone_nothing_is_too_wide_or_too_small() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium is installed");
        return;
    };
    for report in [whole(), large()] {
        let page = render(&report);
        let dom = dom(&browser, &framed(&page));
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
        let seen: serde_json::Value = serde_json::from_str(&title.replace("&amp;", "&")).unwrap();
        assert_eq!(seen["width"], seen["screen"], "the page is as wide as the screen: {seen}");
        assert_eq!(seen["pictures"], figures_of(&page), "{seen}");
        assert!(seen["headline"].as_u64().unwrap() >= 3, "{seen}");
        assert!(seen["letters"].as_f64().unwrap() >= LETTERS_MIN, "{seen}");
        assert_eq!(seen["outside"], "", "letters outside of their picture: {seen}");
    }
}
