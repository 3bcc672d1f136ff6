//! A peer as a target of the load: the same generator, workload and report as for Quorate.

use std::rc::Rc;
use std::time::Duration;

use quorate_client::load::{self, CallError};
use smol::LocalExecutor;

#[cfg(feature = "etcd")]
use super::etcd;
#[cfg(feature = "postgres")]
use super::postgres;
#[cfg(feature = "redis")]
use super::redis;

/// Where a running peer takes calls.
#[derive(Clone, Debug)]
pub(super) enum Store {
    #[cfg(feature = "redis")]
    Redis(redis::Primary),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Primary),
    #[cfg(feature = "etcd")]
    Etcd(etcd::Leader),
}

/// A running peer that takes load. Its writes have no revision.
#[derive(Clone, Debug)]
pub struct PeerTarget {
    pub(super) store: Store,
    pub(super) deadline: Duration,
}

/// One client's connection to a peer. Once lost it stays lost: calls are then refused with the reason.
pub struct PeerConnection(Kind);

enum Kind {
    #[cfg(feature = "redis")]
    Redis(redis::Connection),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Connection),
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::Connection>),
}

impl load::Target for PeerTarget {
    type Connection = PeerConnection;

    async fn connect(
        &self,
        _number: u32,
        executor: &Rc<LocalExecutor<'static>>,
    ) -> Result<PeerConnection, CallError> {
        let deadline = self.deadline;
        let kind = match self.store {
            #[cfg(feature = "redis")]
            Store::Redis(ref primary) => {
                Kind::Redis(redis::Connection::open(primary, deadline, executor).await?)
            }
            #[cfg(feature = "postgres")]
            Store::Postgres(ref primary) => {
                Kind::Postgres(postgres::Connection::open(primary, deadline, executor).await?)
            }
            #[cfg(feature = "etcd")]
            Store::Etcd(ref leader) => {
                Kind::Etcd(Box::new(etcd::Connection::open(leader, deadline, executor).await?))
            }
        };
        Ok(PeerConnection(kind))
    }
}

impl PeerConnection {
    /// What a key holds on the node that takes the writes; none if it is absent.
    pub async fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        match self.0 {
            #[cfg(feature = "redis")]
            Kind::Redis(ref connection) => connection.read(key).await,
            #[cfg(feature = "postgres")]
            Kind::Postgres(ref connection) => connection.read(key).await,
            #[cfg(feature = "etcd")]
            Kind::Etcd(ref connection) => connection.read(key).await,
        }
    }
}

impl load::Connection for PeerConnection {
    async fn write(&self, key: &[u8], value: &[u8]) -> Result<Option<u64>, CallError> {
        match self.0 {
            #[cfg(feature = "redis")]
            Kind::Redis(ref connection) => connection.write(key, value).await?,
            #[cfg(feature = "postgres")]
            Kind::Postgres(ref connection) => connection.write(key, value).await?,
            #[cfg(feature = "etcd")]
            Kind::Etcd(ref connection) => connection.write(key, value).await?,
        }
        Ok(None)
    }

    async fn read(&self, key: &[u8]) -> Result<(), CallError> {
        self.value(key).await.map(drop)
    }
}
