//! Slow and cut links, and slow disks, while the cluster runs.
//!
//! Links can be changed in a cluster that was started with [`Links::Proxied`], disks where the nodes are the
//! harness's own. All of it survives a restart of the nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use quorate_protocol::Quorums;

use super::{Cluster, Links, Reservation};
use crate::proxy::{LinkSettings, Proxy};

impl Cluster {
    /// What stands on the links; none if they are direct. For traffic, and for what is not below.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Sets all links of a node, each way. A message to or from it takes the delay, and an answer twice that.
    pub fn set_link(&self, node: u8, settings: LinkSettings) -> anyhow::Result<()> {
        self.each_link(node, |proxy, from, to| proxy.set(from, to, settings))
    }

    /// Sets the link between two nodes, each way.
    pub fn set_link_between(&self, one: u8, other: u8, settings: LinkSettings) -> anyhow::Result<()> {
        let proxy = self.link_proxy()?;
        proxy.set(one, other, settings)?;
        proxy.set(other, one, settings)
    }

    /// Holds back what one node sends to another; see [`proxy`](crate::proxy) for what the nodes see.
    pub fn cut(&self, from: u8, to: u8) -> anyhow::Result<()> {
        self.link_proxy()?.cut(from, to)
    }

    /// Lets what one node sends to another flow again.
    pub fn heal(&self, from: u8, to: u8) -> anyhow::Result<()> {
        self.link_proxy()?.heal(from, to)
    }

    /// Cuts a node off from all others, each way. Clients still reach it.
    pub fn isolate(&self, node: u8) -> anyhow::Result<()> {
        self.each_link(node, Proxy::cut)
    }

    /// Heals all links. Their settings stay.
    pub fn heal_all(&self) -> anyhow::Result<()> {
        self.link_proxy()?.heal_all();
        Ok(())
    }

    /// Makes every sync of a node's disk longer by `delay`, in whole microseconds; zero takes it back. It
    /// holds for syncs that begin [`SYNC_DELAY_POLL`](crate::node::SYNC_DELAY_POLL) later.
    pub fn slow_sync(&self, node: u8, delay: Duration) -> anyhow::Result<()> {
        self.assert_known(node);
        if self.settings.program.parent.is_none() {
            bail!(
                "the disk of a plain server cannot be slowed: start the cluster with the harness's program"
            );
        }
        let file = self.sync_delay_file(node);
        let slowed = write_whole(&file, &delay.as_micros().to_string());
        slowed.with_context(|| format!("{} cannot be written to slow node {node}", file.display()))
    }

    /// Where a node finds how much longer its syncs take.
    pub(super) fn sync_delay_file(&self, node: u8) -> PathBuf {
        self.settings.directory.join(format!("node-{node}.sync-delay"))
    }

    fn link_proxy(&self) -> anyhow::Result<&Proxy> {
        self.proxy().context("the links of this cluster are direct: start it with proxied ones")
    }

    /// Does the same with every direction that begins or ends at a node.
    fn each_link(
        &self,
        node: u8,
        change: impl Fn(&Proxy, u8, u8) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.assert_known(node);
        let proxy = self.link_proxy()?;
        for other in self.ids().filter(|other| *other != node) {
            change(proxy, node, other)?;
            change(proxy, other, node)?;
        }
        Ok(())
    }
}

/// A proxy on every link, if there is to be one.
pub(super) fn start_proxy(
    links: Links,
    quorums: Quorums,
    reservation: &Reservation,
) -> anyhow::Result<Option<Proxy>> {
    let Links::Proxied { seed } = links else { return Ok(None) };
    let proxy = Proxy::start(seed)?;
    for from in 1..=quorums.replicas() {
        for to in (1..=quorums.replicas()).filter(|to| *to != from) {
            proxy.add_link(from, to, reservation.link(from, to), reservation.peer(to))?;
        }
    }
    Ok(Some(proxy))
}

/// Replaces a file, so that a reader sees the old text or the new one.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, file)
}
