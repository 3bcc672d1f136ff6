//! What a replica with a damaged log does while there is no leader.

use std::time::Duration;

use quorate_protocol::peer::{Append, Inquire, PeerMessage, Position};
use quorate_protocol::{Index, Leadership, Term};

use super::super::{Input, Message, Output, Recovered, Replica, Settings, Time};
use super::{ELECTION_TIMEOUT, founders, member, settings, turn};

const TICK: Duration = Duration::from_millis(5);

/// Node 2 of three, which is lost with what it held, and may learn from one other how far that can have been committed.
struct Damaged {
    replica: Replica,
    now: Time,
}

impl Damaged {
    fn holding(held: (Term, Index)) -> Self {
        let settings = Settings { leadership: Leadership::Elected, ..settings(2, 3, 3) };
        let recovered = Recovered { members: founders(3), held: Some(held), ..Recovered::default() };
        Self { replica: Replica::new(settings, recovered), now: Time::ZERO }
    }

    /// Lets time pass until it asks, and returns how long that took and what it asks.
    fn until_it_asks(&mut self) -> (Time, Inquire) {
        let since = self.now;
        loop {
            self.now += TICK;
            let asked = turn(&mut self.replica, self.now, Input::Tick).into_iter().find_map(inquired);
            if let Some(inquire) = asked {
                return (self.now - since, inquire);
            }
            assert!(self.now - since < 60 * ELECTION_TIMEOUT, "it never asks again");
        }
    }

    /// Node 1 says that its log ends there, to what is asked first and to what is asked then.
    fn hears(&mut self, asked: Inquire, last: (Term, Index)) {
        let would = self.position(asked, last);
        let asks = would.into_iter().find_map(inquired).expect("it asks those who would answer");
        assert!(!asks.pre_vote && asks.term == self.replica.term());
        self.position(asks, last);
    }

    fn position(&mut self, asked: Inquire, (last_term, last_index): (Term, Index)) -> Vec<Output> {
        let Inquire { pre_vote, question, .. } = asked;
        let position = Position { term: self.replica.term(), pre_vote, question, last_index, last_term };
        self.message(PeerMessage::Position(position))
    }

    fn message(&mut self, message: PeerMessage<'_>) -> Vec<Output> {
        turn(&mut self.replica, self.now, Input::Message { from: member(1), message: &message })
    }
}

fn inquired(output: Output) -> Option<Inquire> {
    match output {
        Output::Send { message: Message::Small(PeerMessage::Inquire(inquire)), .. } => Some(inquire),
        _ => None,
    }
}

#[test]
fn who_asks_in_vain_asks_ever_less_often_so_that_others_can_be_elected() {
    let mut node = Damaged::holding((1, 9));
    for times in [1, 2, 4, 8, 8] {
        let (waited, asked) = node.until_it_asks();
        let expected = times * ELECTION_TIMEOUT..=2 * times * ELECTION_TIMEOUT + TICK;
        assert!(expected.contains(&waited), "{times}: {waited:?}");
        node.hears(asked, (1, 9));
        assert_eq!(node.replica.held(), Some((1, 9)));
    }
    let term = node.replica.term();
    node.message(PeerMessage::Append(Append {
        term,
        previous_index: 0,
        previous_term: 0,
        commit: 0,
        round: 1,
        entries: &[],
    }));
    node.now += 2 * ELECTION_TIMEOUT;
    let (waited, _) = node.until_it_asks();
    assert!(waited <= 2 * ELECTION_TIMEOUT, "a leader was heard: {waited:?}");
}

#[test]
fn what_nobody_has_is_given_up_and_then_it_asks_as_often_as_before() {
    let mut node = Damaged::holding((1, 9));
    for _ in 0..3 {
        let (_, asked) = node.until_it_asks();
        node.hears(asked, (2, 10));
    }
    let (_, asked) = node.until_it_asks();
    node.hears(asked, (1, 5));
    assert_eq!(node.replica.held(), Some((1, 5)));
    let (waited, _) = node.until_it_asks();
    assert!(waited <= 2 * ELECTION_TIMEOUT + TICK, "{waited:?}");
}
