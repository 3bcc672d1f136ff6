//! What an operator is told of elections: every note of the replica, with node and term, but none twice within a
//! while. A replica that is cut off asks for votes, and is refused them, twice a second for as long as that lasts.

use std::time::Duration;

use quorate_protocol::{NodeId, Term};

use crate::replica::Time;

/// For so long a note is not said again.
const PAUSE: Duration = Duration::from_secs(10);

/// Notes that are remembered; of more the oldest is forgotten, and may be said again.
const REMEMBERED_MAX: usize = 16;

/// The notes that were said last.
#[derive(Debug, Default)]
pub(super) struct Notes {
    said: Vec<(Time, String)>,
}

impl Notes {
    /// Says a note, unless it was said just now.
    pub(super) fn say(&mut self, now: Time, node: NodeId, term: Term, note: String) {
        if self.is_new(now, &note) {
            tracing::info!(%node, term, "{note}");
            self.said.push((now, note));
        }
    }

    fn is_new(&mut self, now: Time, note: &str) -> bool {
        self.said.retain(|(at, _)| now.saturating_sub(*at) < PAUSE);
        if self.said.iter().any(|(_, said)| said == note) {
            return false;
        }
        if self.said.len() == REMEMBERED_MAX {
            self.said.remove(0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_said_again_after_a_while_and_another_at_once() {
        let mut notes = Notes::default();
        let mut say = |seconds, note: &str| {
            let now = Duration::from_secs(seconds);
            let is_new = notes.is_new(now, note);
            notes.say(now, NodeId::try_from(1).unwrap(), 1, note.into());
            is_new
        };
        assert!(say(0, "refused") && !say(1, "refused") && say(1, "voted"));
        assert!(!say(9, "refused") && say(11, "refused"));
    }

    #[test]
    fn no_more_is_remembered_than_a_bound() {
        let mut notes = Notes::default();
        for term in 0..100 {
            notes.say(Time::ZERO, NodeId::try_from(1).unwrap(), term, format!("stands in term {term}"));
        }
        assert_eq!(notes.said.len(), REMEMBERED_MAX);
    }
}
