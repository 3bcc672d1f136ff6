//! How messages travel: at any time, or at once or never.
//!
//! # Why nothing is missed when messages arrive at once
//!
//! A message that arrives late, and still has an effect, might as well have arrived when it was sent, unless its receiver
//! did something meanwhile that followed from what was sent after it:
//!
//! - An **append** has an effect only while its receiver has promised no later term. In that time the receiver hears of
//!   nobody but that leader, on the same link and behind it; everything else that it does then (a sync, a crash, an
//!   answer) gives the same with the entries of that append behind it on its way to the disk.
//! - A **request** for a vote, or of how far a log goes, has an effect only if its receiver has promised no later term,
//!   and nobody of the asker's term speaks to it before. What it took in meanwhile, from leaders of earlier terms, does
//!   not follow from the request: so that could have come before the asker stood.
//! - An **answer** is counted with others, and the highest stays: an entry that commits because of it was durable on n disks
//!   when the last answer was sent, and what a late answer would break an early one breaks as well. Votes likewise: until
//!   one comes, a candidate only gets others, or is a candidate no more.
//! - An **answer that is lost** leaves its leader where a sync that does not happen leaves it, or a question that is
//!   lost; and whether a follower has synced without telling matters to nobody before the next leader speaks to it, up
//!   to when it can still sync. So only votes are lost, and answers when reads wait for them.
//!
//! What is not there: a leader that goes on writing before an answer came, so that a follower hears of a commit together
//! with an entry that it has not synced; several mismatches under way. And a node whose disk is replaced forgets what it has
//! promised, so that it may still answer a leader after it has voted for the next one, whose append to the former is late:
//! with replaced disks one late message is followed as well. Tests compare what can be reached with both kinds
//! of network, and the smaller bounds have late messages. A bounded number of appends and answers may be set aside in
//! this network too, and come at any later time, or never ([`Counts::delays`]).

use std::sync::Arc;

use quorate_protocol::peer::PeerMessage;

use super::*;

/// How messages travel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Network {
    /// At any time or never; in order on each link.
    InOrder,
    /// At any time or never.
    Unordered,
    /// At once or never: before anything else happens. Once an append or an answer to one is lost, so is all that
    /// follows on its link in the same office.
    Prompt,
}

impl State {
    /// What may arrive next on each link.
    pub(super) fn heads(&self, network: Network) -> impl Iterator<Item = &Arc<Envelope>> {
        let is_behind = move |at: usize| {
            let is_ahead = |other: &Arc<Envelope>| is_on_link_of(&self.sent[at], other);
            network != Network::Unordered && self.sent[..at].iter().any(is_ahead)
        };
        self.sent.iter().enumerate().filter(move |(at, _)| !is_behind(*at)).map(|(_, sent)| sent)
    }

    /// Removes a message that was on its way.
    pub(super) fn take(&mut self, message: &Arc<Envelope>) -> Option<()> {
        for messages in [&mut self.sent, &mut self.late] {
            if let Some(at) = messages.iter().position(|sent| sent == message) {
                messages.remove(at);
                return Some(());
            }
        }
        None
    }
}

impl Small {
    /// Whether anybody is told of a sync; else it may as well come just before the next message does.
    pub(super) fn may_sync(&self, state: &State, at: usize) -> bool {
        let own = &state.nodes[at].replica;
        let is_told = |leader: usize| {
            let replica = &state.nodes[leader].replica;
            replica.is_leader() && replica.term() == own.term() && !state.cut.has(at, leader)
        };
        self.network != Network::Prompt
            || own.leader().is_some_and(|leader| is_told(place(leader)))
            || state.late.iter().any(|late| place(late.to) == at)
    }

    /// A vote arrives at once or never: until it does, a candidate only gets other votes or is a candidate no more,
    /// so that no order is missed.
    fn deliver_votes(&self, state: &mut State, lost: bool) {
        while let Some(first) = state.sent.iter().position(|sent| sent.is_vote()) {
            let message = state.sent.remove(first);
            if !lost {
                self.apply(state, place(message.to), &Event::Receive { message });
            }
        }
    }

    /// Delivers what arrives together with what was sent before it.
    pub(super) fn settle(&self, state: &mut State, loses_vote: bool) {
        if !self.has_pre_votes {
            self.deliver_votes(state, loses_vote);
        }
        let are_answers_sure = self.most.reads == 0 && state.used.delays == self.most.delays;
        if self.network == Network::Prompt && are_answers_sure {
            self.deliver_answers(state);
        }
    }

    /// In the order in which they were sent: only questions of where logs match are answered several at a time, and
    /// these answers commit nothing.
    fn deliver_answers(&self, state: &mut State) {
        while let Some(first) = state.sent.iter().position(|sent| sent.is_answer()) {
            let message = state.sent.remove(first);
            self.apply(state, place(message.to), &Event::Receive { message });
        }
    }

    pub(super) fn push_arrivals(&self, message: &Arc<Envelope>, steps: &mut Vec<Step>) {
        let gets_vote = message.is_request() && !self.has_pre_votes;
        for loses_vote in [false, true].into_iter().take(1 + usize::from(gets_vote)) {
            steps.push(Step::Arrives { message: message.clone(), loses_vote });
        }
    }

    /// What is on its way arrives or is lost. Questions go before answers: whom they reach hears of nobody else
    /// meanwhile, and what it answers is not answered before.
    pub(super) fn prompt_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let question = state.sent.iter().find(|sent| !sent.is_answer());
        let append = question.filter(|question| !question.is_request());
        if let Some(at) = append.map(|append| place(append.to))
            && !state.nodes[at].disk.submitted.is_empty()
            && !self.may_sync(state, at)
        {
            steps.push(Step::Happens { at, event: Event::Sync });
        }
        let is_next = |sent: &&Arc<Envelope>| question.is_none_or(|question| sent.to == question.to);
        for message in state.heads(self.network).filter(is_next) {
            self.push_arrivals(message, steps);
            if !message.is_answer() || self.most.reads > 0 {
                steps.push(Step::Lost(message.clone()));
            }
            if state.used.delays < self.most.delays && !message.is_request() {
                steps.push(Step::Delayed(message.clone()));
            }
        }
    }

    /// Whether a message can have no effect any more, as its receiver has promised a higher term, or holds the office
    /// no more or already for which the message is; or nothing but a refusal.
    pub(super) fn says_nothing(&self, envelope: &Envelope, to: &Node) -> bool {
        let (promise, is_leader) = (to.replica.promised(), to.replica.is_leader());
        let is_answer_to_old = |term| term < promise.term || term == promise.term && !is_leader;
        match envelope.message.to_wire() {
            PeerMessage::Append(append) => self.forgets && append.term < promise.term,
            PeerMessage::RequestVote(request) if request.pre_vote => false,
            PeerMessage::RequestVote(request) => {
                let has_voted = request.term == promise.term && promise.voted_for.is_some();
                self.forgets && (request.term < promise.term || has_voted)
            }
            PeerMessage::Vote(vote) if vote.pre_vote => false,
            PeerMessage::Vote(vote) => {
                let counts = vote.granted && to.replica.is_candidate();
                vote.term < promise.term || vote.term == promise.term && !counts
            }
            PeerMessage::Ack(ack) => {
                self.mutant != Some(Mutant::AckWithoutTerm) && is_answer_to_old(ack.term)
            }
            PeerMessage::Reject(reject) => is_answer_to_old(reject.term),
            _ => false,
        }
    }
}
