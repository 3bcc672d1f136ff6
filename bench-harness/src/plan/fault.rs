//! What is done to a cluster while it is measured: when, and what, as text.
//!
//! ```text
//! 3s pause 2                  SIGSTOP; resume lets it go on
//! 3s kill leader              SIGKILL; restart starts it again with its data
//! 3s slow-sync 2 20ms         every sync of node 2 takes so much longer; 0s heals
//! 3s link 2 5ms±1ms,10MB/s    the links to and from node 2
//! 3s cut 1>2                  nothing that node 1 sends reaches node 2; the other way is open
//! 3s isolate 2                nothing to or from node 2
//! 3s heal                     every link is open, and as it was at the start
//! behind 2 64MiB resume 2     as soon as node 2 lacks so many bytes of log
//! ```
//!
//! Times count from the beginning of the measured window. A node is named by its number, as `leader`, or as
//! `follower`: who leads when the fault comes (it waits until somebody does), and the highest number of all others.
//! Whatever is then resumed, restarted or healed under that name is the same node.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proxy::LinkSettings;
use crate::units::{format_bytes, format_duration, parse_bytes, parse_duration, text};

/// Something done to the cluster.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    /// When.
    pub when: When,
    /// What.
    pub action: Action,
}

/// A node, as a fault names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// By its number.
    Node(u8),
    /// Who leads when it comes.
    Leader,
    /// Of those that do not lead then the one with the highest number.
    Follower,
}

/// When something is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// So long after measuring began.
    At(Duration),
    /// As soon as a follower lacks so many bytes of the leader's log, after everything before it in the list.
    Behind {
        /// The follower.
        node: Who,
        /// Bytes of entries that it does not hold durably.
        bytes: u64,
    },
}

/// What is done.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Stops a node's process with SIGSTOP: it answers nothing, and its connections stay open.
    Pause(Who),
    /// Lets a paused node go on.
    Resume(Who),
    /// Ends a node with SIGKILL.
    Kill(Who),
    /// Starts a killed node again, with its data.
    Restart(Who),
    /// Makes every sync of a node take so much longer.
    SlowSync(Who, Duration),
    /// Makes all links to and from a node like this.
    Link(Who, LinkSettings),
    /// Lets nothing through from one node to another.
    Cut {
        /// Who is not heard.
        from: Who,
        /// By whom.
        to: Who,
    },
    /// Lets nothing through to or from a node.
    Isolate(Who),
    /// Makes all links as they were at the start.
    Heal,
}

impl Action {
    /// Whether it is done to links rather than to a process.
    pub fn is_of_a_link(&self) -> bool {
        matches!(self, Self::Link(..) | Self::Cut { .. } | Self::Isolate(_) | Self::Heal)
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<Who> {
        match self {
            Self::Pause(node)
            | Self::Resume(node)
            | Self::Kill(node)
            | Self::Restart(node)
            | Self::SlowSync(node, _)
            | Self::Link(node, _)
            | Self::Isolate(node) => vec![*node],
            Self::Cut { from, to } => vec![*from, *to],
            Self::Heal => Vec::new(),
        }
    }

    /// The same, of other nodes.
    #[must_use]
    pub fn of_nodes(&self, node: impl Fn(Who) -> Who) -> Self {
        match self {
            Self::Pause(who) => Self::Pause(node(*who)),
            Self::Resume(who) => Self::Resume(node(*who)),
            Self::Kill(who) => Self::Kill(node(*who)),
            Self::Restart(who) => Self::Restart(node(*who)),
            Self::SlowSync(who, time) => Self::SlowSync(node(*who), *time),
            Self::Link(who, settings) => Self::Link(node(*who), *settings),
            Self::Cut { from, to } => Self::Cut { from: node(*from), to: node(*to) },
            Self::Isolate(who) => Self::Isolate(node(*who)),
            Self::Heal => Self::Heal,
        }
    }
}

const ADVICE: &str = "write for example \"3s pause 2\", \"5s resume 2\", \"3s kill leader\", \"3s slow-sync 2 20ms\", \"3s cut 1>2\" \
                      or \"behind 2 64MiB resume 2\"; bench-harness --help lists all";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        let (when, action) = match words.as_slice() {
            ["behind", node, bytes, action @ ..] => {
                (When::Behind { node: parse_node(node)?, bytes: parse_bytes(bytes)? }, action)
            }
            [at, action @ ..] => {
                let at = parse_duration(at)
                    .map_err(|_| format!("\"{text}\" does not begin with a time: {ADVICE}"))?;
                (When::At(at), action)
            }
            [] => return Err(format!("an empty fault: {ADVICE}")),
        };
        let action = parse_action(action)?.ok_or_else(|| format!("\"{text}\" is no fault: {ADVICE}"))?;
        Ok(Self { when, action })
    }
}

fn parse_action(words: &[&str]) -> Result<Option<Action>, String> {
    Ok(Some(match *words {
        ["pause", node] => Action::Pause(parse_node(node)?),
        ["resume", node] => Action::Resume(parse_node(node)?),
        ["kill", node] => Action::Kill(parse_node(node)?),
        ["restart", node] => Action::Restart(parse_node(node)?),
        ["slow-sync", node, time] => Action::SlowSync(parse_node(node)?, parse_duration(time)?),
        ["link", node, link] => Action::Link(parse_node(node)?, link.parse()?),
        ["cut", link] => match link.split_once('>') {
            Some((from, to)) => Action::Cut { from: parse_node(from)?, to: parse_node(to)? },
            None => return Ok(None),
        },
        ["isolate", node] => Action::Isolate(parse_node(node)?),
        ["heal"] => Action::Heal,
        _ => return Ok(None),
    }))
}

fn parse_node(text: &str) -> Result<Who, String> {
    match text {
        "leader" => Ok(Who::Leader),
        "follower" => Ok(Who::Follower),
        number => match number.parse() {
            Ok(number) => Ok(Who::Node(number)),
            Err(_) => Err(format!("\"{text}\" is no node: write its number, leader or follower")),
        },
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(number) => write!(f, "{number}"),
            Self::Leader => f.write_str("leader"),
            Self::Follower => f.write_str("follower"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => f.write_str(&format_duration(*time)),
            Self::Behind { node, bytes } => write!(f, "behind {node} {}", format_bytes(*bytes)),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause(node) => write!(f, "pause {node}"),
            Self::Resume(node) => write!(f, "resume {node}"),
            Self::Kill(node) => write!(f, "kill {node}"),
            Self::Restart(node) => write!(f, "restart {node}"),
            Self::SlowSync(node, time) => write!(f, "slow-sync {node} {}", format_duration(*time)),
            Self::Link(node, link) => write!(f, "link {node} {link}"),
            Self::Cut { from, to } => write!(f, "cut {from}>{to}"),
            Self::Isolate(node) => write!(f, "isolate {node}"),
            Self::Heal => f.write_str("heal"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.when, self.action)
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_back_as_it_was_written() {
        for text in [
            "3s pause 2",
            "1500ms resume 2",
            "0s kill 3",
            "5s restart 3",
            "1s slow-sync 2 20ms",
            "1s link 2 5ms±1ms,10MB/s",
            "2s cut 1>2",
            "2s isolate 3",
            "9s heal",
            "behind 2 64MiB resume 2",
            "1s kill leader",
            "2s cut leader>follower",
            "behind follower 1MiB resume follower",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_fault_is_refused_with_an_example() {
        for text in ["", "3s", "3s pause", "3s pause x", "pause 2", "3s cut 1-2", "3s explode 2", "behind 2"]
        {
            let refused = text.parse::<Fault>().unwrap_err();
            assert!(refused.contains("write"), "{text}: {refused}");
        }
    }
}
