//! What a node's disk must hold: the oracle of its log.
//!
//! It follows the node's own commands to its log. What a step of the log has done when it comes back must be there
//! after any crash; of the step under way there may be any part. So a disk's word is never taken for what it holds.

use std::collections::VecDeque;

use quorate_protocol::{Index, Term, entry};

use crate::log::{LogCommand, LogEvent};
use crate::sim::history::checksum_of;

/// What stands for an entry's bytes: its term and its checksum.
pub(super) type Mark = (Term, u32);

/// The marks of a run of entries.
pub(super) fn marks(entries: &[u8]) -> impl Iterator<Item = Mark> {
    entry::iterate(entries).map(|entry| {
        let entry = entry.expect("a node gives its log whole entries");
        (entry.term, checksum_of(entry.bytes))
    })
}

#[derive(Debug)]
enum Asked {
    Append {
        last: Index,
        marks: Vec<Mark>,
    },
    Truncate {
        after: Index,
    },
    /// Everything up to `after` is in a checkpoint, and the log begins behind it.
    Restart {
        after: Index,
    },
}

/// What a node's disk must hold, whatever happens to it.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    log: Vec<Mark>,
    /// What is in a checkpoint that was installed, from entry 1 on.
    installed: Vec<Mark>,
    queue: VecDeque<Asked>,
    /// How many of these the log has taken.
    taken: usize,
}

impl Holdings {
    /// The last entry.
    pub(super) fn last(&self) -> Index {
        self.log.len().max(self.installed.len()) as Index
    }

    /// A checkpoint is durable that holds everything up to an index.
    pub(super) fn install(&mut self, index: Index, committed: impl Fn(Index) -> Option<Mark>) {
        if index > self.installed.len() as Index {
            let marks =
                (1..=index).map(|index| committed(index).expect("a checkpoint holds what is committed"));
            self.installed = marks.collect();
        }
    }

    /// Whether the log leads to the checkpoint that was installed: else it may be gone after a crash.
    fn leads_to_installed(&self) -> bool {
        let at = self.installed.len();
        at == 0 || self.log.get(at - 1) == self.installed.last()
    }

    /// An entry, if it is held durably.
    pub(super) fn get(&self, index: Index) -> Option<Mark> {
        let at = index.checked_sub(1)? as usize;
        self.installed.get(at).or(self.log.get(at)).copied()
    }

    /// Everything that is held durably, from entry 1 on.
    pub(super) fn everything(&self) -> Vec<Mark> {
        (1..=self.last()).filter_map(|index| self.get(index)).collect()
    }

    /// The log is asked for something.
    pub(super) fn asked(&mut self, command: &LogCommand) {
        match command {
            LogCommand::Append { last, entries, .. } => {
                self.queue.push_back(Asked::Append { last: *last, marks: marks(entries).collect() });
            }
            LogCommand::Truncate { after, .. } => self.queue.push_back(Asked::Truncate { after: *after }),
            LogCommand::Restart { after, .. } => self.queue.push_back(Asked::Restart { after: *after }),
            LogCommand::DropBefore(_) => {}
        }
    }

    /// The term of an entry that the log was given, whether it has it yet or not.
    pub(super) fn given_term(&self, index: Index) -> Option<Term> {
        for asked in self.queue.iter().rev() {
            match asked {
                Asked::Append { last, marks } => {
                    let first = last + 1 - marks.len() as Index;
                    if (first..=*last).contains(&index) {
                        return Some(marks[(index - first) as usize].0);
                    }
                }
                Asked::Truncate { after } | Asked::Restart { after } if index > *after => return None,
                Asked::Truncate { .. } => {}
                Asked::Restart { .. } => break,
            }
        }
        if index == 0 { Some(0) } else { self.get(index).map(|(term, _)| term) }
    }

    /// The log takes everything that it was asked for.
    pub(super) fn taken(&mut self) {
        // A log that begins anew forgets what it was asked before.
        if let Some(restart) = self.queue.iter().rposition(|asked| matches!(asked, Asked::Restart { .. })) {
            self.queue.drain(..restart);
        }
        self.taken = self.queue.len();
    }

    /// Whether the log has something to do that it has taken.
    pub(super) fn is_at_work(&self) -> bool {
        self.taken > 0
    }

    /// A step of the log came back.
    pub(super) fn done(&mut self, event: &LogEvent) {
        match event {
            LogEvent::Durable { index, .. } => {
                while (self.log.len() as Index) < *index {
                    let Some(Asked::Append { last, marks }) = self.queue.pop_front() else {
                        panic!("the log calls entry {index} durable, which it was not asked to append");
                    };
                    self.taken -= 1;
                    self.log.extend(marks);
                    assert_eq!(self.log.len() as Index, last, "the log skips entries");
                }
            }
            LogEvent::Truncated { after, .. } => {
                let asked = self.queue.pop_front();
                self.taken -= 1;
                match asked {
                    Some(Asked::Truncate { after: asked }) if asked == *after => {
                        self.log.truncate(asked as usize)
                    }
                    Some(Asked::Restart { after: asked }) if asked == *after => {
                        self.log = self.installed[..asked as usize].to_vec();
                    }
                    other => panic!("the log ends at {after}, but was asked for {other:?}"),
                }
            }
            _ => {}
        }
    }

    /// After a crash: takes what was found from `first` on for the truth, and says what is wrong with it. What lies
    /// before is in a checkpoint, and given by `committed`.
    pub(super) fn recover(
        &mut self,
        first: Index,
        found: &[Mark],
        committed: impl Fn(Index) -> Option<Mark>,
    ) -> Result<(), String> {
        let mut cut = self.last();
        if !self.leads_to_installed() {
            cut = self.installed.len() as Index;
        }
        let mut appending: Vec<Mark> = Vec::new();
        for asked in self.queue.iter().take(self.taken) {
            match asked {
                Asked::Append { marks, .. } => appending.extend(marks),
                Asked::Truncate { after } => {
                    if appending.is_empty() {
                        cut = cut.min(*after);
                    }
                    break;
                }
                Asked::Restart { after } => {
                    cut = cut.min(*after);
                    break;
                }
            }
        }
        let last = first - 1 + found.len() as Index;
        let longest = self.last() + appending.len() as Index;
        if last < cut {
            return Err(format!("lost: the log ends at entry {last}, but held {cut}"));
        }
        if !found.is_empty() && last > longest {
            return Err(format!("invented: the log ends at entry {last}, but was given {longest}"));
        }
        for (index, mark) in (first..).zip(found) {
            let given = self
                .get(index)
                .or_else(|| appending.get((index as usize).checked_sub(self.log.len() + 1)?).copied());
            if given != Some(*mark) {
                return Err(format!("entry {index} is {mark:?}, but {given:?} was given"));
            }
        }
        let mut log = Vec::with_capacity(last as usize);
        for index in 1..first {
            let mark = committed(index);
            log.push(
                mark.ok_or_else(|| format!("a checkpoint holds entry {index}, which nobody committed"))?,
            );
        }
        log.extend_from_slice(found);
        *self = Self { log, ..Self::default() };
        Ok(())
    }
}
