//! How the leader of a cluster is found, and what holds it in office.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{format_duration, optional_duration};

/// How the leader of a cluster is found. By default it is elected, with the server's own times.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderSettings {
    /// The configured leader; none if it is elected.
    pub leader: Option<u8>,
    /// Between two heartbeats; none for the server's default.
    #[serde(default, with = "optional_duration")]
    pub heartbeat: Option<Duration>,
    /// Without a leader until an election, at least; none for the server's default.
    #[serde(default, with = "optional_duration")]
    pub election_timeout: Option<Duration>,
    /// For which a leader that was confirmed answers reads without asking again; none for the server's default.
    #[serde(default, with = "optional_duration")]
    pub lease: Option<Duration>,
}

impl LeaderSettings {
    /// What plans were made for before there were elections: node 1 leads.
    pub(super) fn before_elections() -> Self {
        Self { leader: Some(1), ..Self::default() }
    }

    /// Whether it makes sense for so many replicas; if not, one sentence says what to change. How the times must fit
    /// each other is the server's to say.
    pub(super) fn check(&self, replicas: u8) -> Result<(), String> {
        if let Some(leader) = self.leader
            && !(1..=replicas).contains(&leader)
        {
            return Err(format!("--leader {leader}: there is no node {leader}, choose from 1 to {replicas}"));
        }
        if self.leader.is_some() && self.lease.is_some() {
            return Err(
                "a configured leader needs no --lease, as nobody else can lead: leave one out".to_owned()
            );
        }
        for (name, time) in self.times() {
            if time.subsec_nanos() % 1_000_000 != 0 {
                return Err(format!("--{name} {}: choose whole milliseconds", format_duration(time)));
            }
        }
        Ok(())
    }

    /// The options of a server that say the times.
    pub(super) fn server_options(&self) -> Vec<String> {
        self.times().map(|(name, time)| format!("--{name}-ms={}", time.as_millis())).collect()
    }

    fn times(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let times = [
            ("heartbeat", self.heartbeat),
            ("election-timeout", self.election_timeout),
            ("lease", self.lease),
        ];
        times.into_iter().filter_map(|(name, time)| Some((name, time?)))
    }
}

impl fmt::Display for LeaderSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.leader {
            Some(leader) => write!(f, "node {leader} leads")?,
            None => f.write_str("leader elected")?,
        }
        self.times().try_for_each(|(name, time)| write!(f, ", {name} {}", format_duration(time)))
    }
}
