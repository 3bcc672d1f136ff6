//! A Quorate cluster as a target.

use std::rc::Rc;
use std::time::Duration;

use smol::LocalExecutor;

use super::target::{CallError, Connection, Failed, Target};
use super::workload::OPEN_CALLS_MAX;
use crate::{Appended, Builder, Client, Consistency, Error, ErrorKind, Unknown};

/// A cluster of Quorate; each client has a connection of its own, and one more for reads at followers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorateTarget {
    /// `HOST:PORT` each, tried in turn; the leader first saves redirects.
    pub servers: Vec<String>,
    /// Of each call.
    pub deadline: Duration,
    /// The cluster's name: servers of another are refused. Any cluster if it is not given.
    pub cluster: Option<String>,
    /// Who answers reads.
    pub reads: Reads,
    /// Whether a write that may have happened is sent again, and happens once all the same.
    pub exactly_once: bool,
}

/// Who answers reads, and so what they promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reads {
    /// The leader: they are linearizable.
    Leader,
    /// Each client's one of these servers (`HOST:PORT`), which the clients take in turn: some committed state.
    Follower {
        /// At least one.
        servers: Vec<String>,
    },
}

/// One client's connections to a cluster.
pub struct QuorateConnection {
    writer: Client,
    reader: Client,
}

impl QuorateTarget {
    fn client(
        &self,
        builder: Builder,
        servers: &[String],
        executor: &LocalExecutor<'static>,
    ) -> Result<Client, CallError> {
        let builder = builder
            .servers(servers)
            .cluster(self.cluster.as_deref().unwrap_or_default())
            .deadline(self.deadline)
            .exactly_once(self.exactly_once)
            // The workload bounds it, and the server.
            .in_flight_max(OPEN_CALLS_MAX as usize);
        let (client, driver) = builder.build().map_err(|error| failed(&error, false))?;
        executor.spawn(driver).detach();
        Ok(client)
    }
}

impl Target for QuorateTarget {
    type Connection = QuorateConnection;

    /// Makes no connection yet: the first call does.
    async fn connect(
        &self,
        number: u32,
        executor: &Rc<LocalExecutor<'static>>,
    ) -> Result<QuorateConnection, CallError> {
        let writer = self.client(Client::builder(), &self.servers, executor)?;
        let reader = match &self.reads {
            Reads::Leader => writer.clone(),
            Reads::Follower { servers } => {
                let own = servers.get(number as usize % servers.len().max(1)).cloned();
                let builder = Client::builder().discover(false).consistency(Consistency::Local);
                self.client(builder, own.as_slice(), executor)?
            }
        };
        Ok(QuorateConnection { writer, reader })
    }
}

impl Connection for QuorateConnection {
    async fn write(&self, key: &[u8], value: &[u8]) -> Result<Option<u64>, CallError> {
        match self.writer.set(key, value).await {
            Ok(written) => Ok(Some(written.revision())),
            Err(error) => Err(failed(&error, is_unknown(&error))),
        }
    }

    async fn read(&self, key: &[u8]) -> Result<(), CallError> {
        match self.reader.get(key).await {
            Ok(_) => Ok(()),
            // Unlike a write, a read has this only when it was sent.
            Err(error) => Err(failed(&error, error == Error::Deadline || is_unknown(&error))),
        }
    }
}

/// An answer that does not fit may belong to a write that happened.
fn is_unknown(error: &Error) -> bool {
    error.kind() == ErrorKind::OutcomeUnknown || *error == Error::BadAnswer
}

fn failed(error: &Error, is_unknown: bool) -> CallError {
    let outcome = if is_unknown { Failed::Unknown } else { Failed::Refused };
    let reason = match error {
        // Without its place in the log, which is another for each write.
        Error::OutcomeUnknown(Unknown { appended: Some(Appended { copies, .. }), .. }) => {
            format!("the outcome is unknown: on {copies} replicas at the deadline, not committed")
        }
        _ => error.to_string(),
    };
    CallError { outcome, reason }
}
