//! Slow and cut links, while the cluster runs.
//!
//! They can be changed in a cluster that was started with [`Links::Proxied`], and survive a restart of nodes.

use anyhow::Context;
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
