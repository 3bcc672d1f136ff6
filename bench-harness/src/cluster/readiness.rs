//! Waiting by asking: until a cluster takes writes, and until its followers have what the leader has.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quorate_client::{Client, NodeStatus};
use quorate_protocol::Index;
use smol::Timer;

use super::Cluster;
use crate::units::format_duration;

/// How often is asked.
const POLL: Duration = Duration::from_millis(20);

/// How long one answer may take; nodes that start refuse connections at once.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

impl Cluster {
    /// Waits until the cluster is formed, somebody leads and has committed the first entry of its term, and every
    /// other node that was started is reachable from it. Who it is. Fails as soon as a node ends, or when the time is
    /// up.
    pub async fn wait_ready(&mut self, time_max: Duration) -> anyhow::Result<u8> {
        let members = self.members();
        let running: Vec<_> = self.ids().filter(|node| self.process_id(*node).is_some()).collect();
        let deadline = Instant::now() + time_max;
        loop {
            self.check_running()?;
            let reason = match members.find_leader(&running, ANSWER_TIME_MAX).await? {
                None => "no node leads".to_owned(),
                Some((leader, status)) => match judge(&status, &running) {
                    Ok(()) => return Ok(leader),
                    Err(reason) => reason,
                },
            };
            if Instant::now() >= deadline {
                let logs = self.directory().display();
                bail!(
                    "the cluster was not ready within {}: {reason}; the nodes' logs are in {logs}",
                    format_duration(time_max)
                );
            }
            Timer::after(POLL).await;
        }
    }

    /// Waits until a node has applied everything up to `index`. Fails as soon as a node ends, or when it gets
    /// nowhere for as long as `patience`.
    pub async fn wait_applied(&mut self, node: u8, index: Index, patience: Duration) -> anyhow::Result<()> {
        let client = self.client(node)?;
        let waited = wait_applied(&client, index, patience, &mut || self.check_running()).await;
        waited.with_context(|| format!("node {node} did not catch up{}", self.log_words(node)))
    }
}

/// Waits until the node that a client asks has applied everything up to `index`. Fails when `check` does, or
/// when the node gets nowhere for as long as `patience`: however much it lacks, it may take its time.
pub async fn wait_applied(
    client: &Client,
    index: Index,
    patience: Duration,
    check: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = client.with_deadline(ANSWER_TIME_MAX);
    let (mut applied, mut since) = (0, Instant::now());
    loop {
        check()?;
        let reason = match client.status(false).await {
            Ok(status) => {
                let now = status.view().applied;
                if now >= index {
                    return Ok(());
                }
                if now > applied {
                    (applied, since) = (now, Instant::now());
                }
                format!("it has applied {now} of {index} entries")
            }
            Err(error) => error.to_string(),
        };
        if since.elapsed() >= patience {
            bail!("it got nowhere for {}: {reason}", format_duration(patience));
        }
        Timer::after(POLL).await;
    }
}

/// Whether a leader can serve and reaches all others that run; an error says what is missing.
fn judge(status: &NodeStatus, running: &[u8]) -> Result<(), String> {
    let status = status.view();
    if status.commit == 0 {
        return Err("the leader has not committed its first entry".to_owned());
    }
    let is_reachable = |node: &u8| {
        status.node.get() == *node
            || status.followers.iter().any(|follower| follower.node.get() == *node && follower.reachable)
    };
    match running.iter().find(|node| !is_reachable(node)) {
        Some(node) => Err(format!("the leader does not reach node {node}")),
        None => Ok(()),
    }
}
