//! How long followers took to catch up, from what was seen of them over time.

use crate::plan::{Action, Who};
use crate::report::{CatchUp, LagSample};

/// One catch-up for each time that a follower which lacked entries was let go on. It has caught up when it lacks
/// no more entries than it did at most before anything was done to the cluster. The actions name nodes by number.
pub(super) fn catch_ups<'a>(
    actions: &[(f64, Action)],
    samples: impl Fn(u8) -> &'a [LagSample],
    nodes: &[u8],
) -> Vec<CatchUp> {
    let Some((first_s, _)) = actions.first() else { return Vec::new() };
    let mut found = Vec::new();
    for (t_s, action) in actions {
        for node in let_go(action, nodes) {
            let samples = samples(node);
            let usual = samples.iter().filter(|sample| sample.t_s < *first_s).map(|sample| sample.entries);
            let usual = usual.max().unwrap_or(0);
            let Some(then) = samples.iter().rfind(|sample| sample.t_s <= *t_s) else { continue };
            if then.entries <= usual {
                continue;
            }
            let drained = samples.iter().find(|sample| sample.t_s > *t_s && sample.entries <= usual);
            let drained_s = drained.map(|sample| (sample.t_s - t_s).max(0.0));
            found.push(CatchUp { node, t_s: *t_s, entries: then.entries, bytes: then.bytes, drained_s });
        }
    }
    found
}

/// The followers that an action lets go on.
fn let_go(action: &Action, nodes: &[u8]) -> Vec<u8> {
    match action {
        Action::Resume(Who::Node(node)) | Action::Restart(Who::Node(node)) => vec![*node],
        Action::Heal => nodes.to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries that a follower lacked, a sample each second from 0 on.
    fn samples(entries: &[u64]) -> Vec<LagSample> {
        let sample = |(second, entries): (usize, &u64)| LagSample {
            t_s: second as f64,
            entries: *entries,
            bytes: entries * 100,
            lag_us: 0,
        };
        entries.iter().enumerate().map(sample).collect()
    }

    const PAUSED: [(f64, Action); 2] =
        [(1.5, Action::Pause(Who::Node(3))), (4.5, Action::Resume(Who::Node(3)))];

    #[test]
    fn a_backlog_is_drained_when_the_follower_is_as_before() {
        let lacked = samples(&[5, 9, 300, 600, 900, 400, 9, 3]);
        let found = catch_ups(&PAUSED, |_| &lacked[..], &[2, 3]);
        let expected = CatchUp { node: 3, t_s: 4.5, entries: 900, bytes: 90_000, drained_s: Some(1.5) };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_run_that_ends_first_has_no_time() {
        let lacked = samples(&[5, 9, 300, 600, 900, 400]);
        let found = catch_ups(&PAUSED, |_| &lacked[..], &[2, 3]);
        assert_eq!((found.len(), found[0].drained_s), (1, None));
    }

    #[test]
    fn healing_is_for_all_who_lack_something_and_nobody_else() {
        let actions = [(1.5, Action::Isolate(Who::Node(3))), (4.5, Action::Heal)];
        let (well, cut) = (samples(&[5, 9, 7, 8, 9, 2]), samples(&[5, 9, 300, 600, 900, 1]));
        let lacked = |node| if node == 3 { &cut[..] } else { &well[..] };
        let found = catch_ups(&actions, lacked, &[2, 3]);
        assert_eq!(found.iter().map(|catch_up| catch_up.node).collect::<Vec<_>>(), [3]);
        assert!(catch_ups(&[], lacked, &[2, 3]).is_empty());
    }
}
