//! etcd: a Raft cluster that acknowledges at a majority, synced.
//!
//! Clients connect to the leader, each with a connection of its own, so no server passes calls on.
//!
//! The client needs tokio. Its connections live on a runtime of their own beside the load's thread, as those
//! of a program that uses it would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Client, Error, KvClient};
use quorate_client::load::CallError;
use quorate_protocol::Quorums;
use rustix::process::Signal;
use smol::LocalExecutor;
use tokio::runtime::{Builder, Runtime};

use super::calls::{refused, timed_out, unknown};
use super::deadline::Deadlines;
use super::installed::Installed;
use super::servers::{Manners, Servers};
use super::target::Store;
use super::{Settings, Started};

/// Threads of the client's runtime.
const CLIENT_THREADS: usize = 2;

/// What differs from etcd's defaults: keys keep their history, and it may grow as far as etcd allows.
const COMMON_SETTINGS: [(&str, &str); 1] = [("quota-backend-bytes", "8589934592")];

/// gRPC's code for a call that makes no sense.
const INVALID_ARGUMENT: i32 = 3;

/// gRPC's code for a call that etcd has no room for: it proposes nothing then.
const RESOURCE_EXHAUSTED: i32 = 8;

/// Where writes go.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    address: SocketAddr,
    runtime: Arc<Runtime>,
}

/// Starts the servers, and waits until all follow one leader.
pub(super) async fn start(settings: &Settings, installed: &Installed) -> anyhow::Result<Started> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(CLIENT_THREADS)
        .thread_name("etcd-client")
        .enable_all()
        .build()
        .context("the threads of etcd's client cannot be started")?;
    let manners = Manners { launcher: settings.launcher.clone(), end: Signal::KILL, user: None };
    let replicas = settings.quorums.replicas();
    let mut servers = Servers::prepare(manners, replicas, &settings.directory)?;
    for number in 1..=replicas {
        let arguments = arguments(&servers, number, replicas);
        servers.start(number, installed.program(), &arguments)?;
    }
    let addresses: Vec<_> = (1..=replicas).map(|number| servers.client_address(number)).collect();
    let mut leader = None;
    servers
        .wait_until(async || {
            leader = Some(find_leader(&runtime, addresses.clone()).await?);
            Ok(())
        })
        .await?;
    let address = leader.context("no leader was found")?;
    Ok(Started {
        servers,
        store: Store::Etcd(Leader { address, runtime: Arc::new(runtime) }),
        acknowledgement: acknowledgement(settings.quorums),
        settings: COMMON_SETTINGS.map(|(name, value)| format!("{name} {value}")).into(),
    })
}

fn arguments(servers: &Servers, number: u8, replicas: u8) -> Vec<String> {
    let url = |address: SocketAddr| format!("http://{address}");
    let name = |number: u8| format!("node-{number}");
    let members =
        (1..=replicas).map(|number| format!("{}={}", name(number), url(servers.peer_address(number))));
    let (client, peer) = (url(servers.client_address(number)), url(servers.peer_address(number)));
    let own = [
        ("name", name(number)),
        ("data-dir", servers.data_directory(number).display().to_string()),
        ("initial-cluster", members.collect::<Vec<_>>().join(",")),
        ("initial-cluster-state", "new".to_owned()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
    ];
    let common = COMMON_SETTINGS.map(|(name, value)| (name, value.to_owned()));
    own.into_iter().chain(common).flat_map(|(name, value)| [format!("--{name}"), value]).collect()
}

fn acknowledgement(quorums: Quorums) -> String {
    format!(
        "{} of {} servers, the leader included, have synced it to their logs, and the leader has applied it. \
         Every failover keeps it",
        quorums.quorum(),
        quorums.replicas()
    )
}

/// The server that all of them follow; an error says what is missing.
async fn find_leader(runtime: &Runtime, addresses: Vec<SocketAddr>) -> Result<SocketAddr, String> {
    let search = runtime.spawn(async move {
        let mut leader = None;
        for address in addresses {
            let status = connect(address).await?.status().await?;
            let own = status.header().map(|header| header.member_id());
            if status.leader() == 0 {
                return Ok(None);
            }
            if own == Some(status.leader()) {
                leader = Some(address);
            }
        }
        Ok(leader)
    });
    match search.await {
        Ok(Ok(leader)) => leader.ok_or_else(|| "there is no leader that all servers follow".to_owned()),
        Ok(Err(error)) => Err(words(&error)),
        Err(error) => Err(error.to_string()),
    }
}

async fn connect(address: SocketAddr) -> Result<Client, Error> {
    Client::connect([format!("http://{address}")], None).await
}

/// One client's connection, used by several callers at once.
pub(super) struct Connection {
    client: KvClient,
    deadlines: Deadlines,
    /// Moves the connection's bytes.
    _runtime: Arc<Runtime>,
}

impl Connection {
    /// Connects. Each call is given up after `deadline`.
    pub(super) async fn open(
        leader: &Leader,
        deadline: Duration,
        executor: &LocalExecutor<'static>,
    ) -> Result<Self, CallError> {
        let deadlines = Deadlines::new(deadline, executor);
        let connecting = leader.runtime.spawn(connect(leader.address));
        let connected = deadlines.bound(connecting).await.ok_or_else(timed_out)?;
        let client = connected
            .map_err(|error| refused(error.to_string()))?
            .map_err(|error| refused(words(&error)))?
            .kv_client();
        Ok(Self { client, deadlines, _runtime: leader.runtime.clone() })
    }

    /// Sets a key.
    pub(super) async fn write(&self, key: &[u8], value: &[u8]) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.call(client.put(key, value, None)).await.map(drop)
    }

    /// What a key holds.
    pub(super) async fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        let mut client = self.client.clone();
        let mut found = self.call(client.get(key, None)).await?.take_kvs();
        Ok(found.pop().map(|pair| pair.into_key_value().1))
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, CallError> {
        self.deadlines.bound(call).await.ok_or_else(timed_out)?.map_err(|error| failure(&error))
    }
}

/// Which errors say that nothing was proposed.
fn failure(error: &Error) -> CallError {
    match error {
        Error::GRpcStatus(status) if is_refusal(status.code() as i32) => refused(words(error)),
        _ => unknown(words(error)),
    }
}

fn is_refusal(code: i32) -> bool {
    [INVALID_ARGUMENT, RESOURCE_EXHAUSTED].contains(&code)
}

/// The error, without what differs from call to call.
fn words(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("{}: {}", status.code().description(), status.message()),
        _ => error.to_string(),
    }
}
