//! PostgreSQL: a primary and its standbys, with quorum commit.
//!
//! The primary is server 1. `synchronous_standby_names = ANY n-1 (…)` makes a commit wait for standbys. The
//! programs refuse to run as root, so a harness that is root runs them as the user `postgres`.
//!
//! The client's connections run on the load's own executor, without a runtime of their own.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use futures_lite::FutureExt;
use futures_lite::future::{try_zip, yield_now};
use quorate_client::load::CallError;
use quorate_protocol::{Durability, Quorums};
use rustix::process::{Signal, geteuid};
use smol::{LocalExecutor, Task};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use super::calls::{refused, timed_out, unknown};
use super::deadline::Deadlines;
use super::installed::Installed;
use super::launcher::User;
use super::servers::{Manners, Servers};
use super::stream::Stream;
use super::target::Store;
use super::{PeerKind, Settings, Started};

/// Who runs the servers if the harness is root: Debian's package makes this user.
const SYSTEM_USER: &str = "postgres";

/// Who the servers know clients as.
const ROLE: &str = "postgres";

/// First letters of the codes of errors that end a connection, whatever became of the call.
const OPERATOR_INTERVENTION: &str = "57P";

/// Connections beside the clients': those that start it, and the standbys'.
const CONNECTIONS_SPARE: u32 = 20;

const CREATE: &str = "create table store (key bytea primary key, value bytea not null)";
const UPSERT: &str =
    "insert into store values ($1, $2) on conflict (key) do update set value = excluded.value";
const SELECT: &str = "select value from store where key = $1";

/// Standbys that stream, and count for the quorum if commits wait for any.
const STREAMING: &str = "select count(*) from pg_stat_replication \
                         where state = 'streaming' and (sync_state = 'quorum' or $1)";

/// Where writes go.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    address: SocketAddr,
}

/// Starts the primary, then standbys from copies of it, and waits until all of them stream.
pub(super) async fn start(settings: &Settings, installed: &Installed) -> anyhow::Result<Started> {
    let manners =
        Manners { launcher: settings.launcher.clone(), end: Signal::QUIT, user: user(geteuid().is_root())? };
    let replicas = settings.quorums.replicas();
    let mut servers = Servers::prepare(manners, replicas, &settings.directory)?;
    let common = common_settings(settings.quorums, settings.durability);
    let address = servers.client_address(1);

    let initdb = ["--pgdata=.", "--auth=trust", "--encoding=UTF8", "--no-locale", "--username", ROLE];
    servers.run_tool(1, &installed.beside("initdb"), &initdb.map(str::to_owned)).await.context(
        "its data cannot be prepared; a harness that is root runs it as another user, who must be able to \
         reach --data-dir",
    )?;
    start_server(&mut servers, 1, installed, &common)?;
    servers.wait_until(async || create_table(address).await).await?;
    for number in 2..=replicas {
        servers.run_tool(number, &installed.beside("pg_basebackup"), &basebackup(address, number)).await?;
        start_server(&mut servers, number, installed, &common)?;
    }
    let quorums = settings.quorums;
    servers.wait_until(async || standbys_stream(address, quorums).await).await?;
    Ok(Started {
        servers,
        store: Store::Postgres(Primary { address }),
        acknowledgement: acknowledgement(quorums, settings.durability),
        settings: common.iter().map(|(name, value)| format!("{name} = {value:?}")).collect(),
    })
}

/// Who the programs run as; none if as whoever runs the harness.
fn user(is_root: bool) -> anyhow::Result<Option<User>> {
    if !is_root {
        return Ok(None);
    }
    let user = User::named(SYSTEM_USER).with_context(|| {
        format!(
            "it refuses to run as root, and there is no user {SYSTEM_USER}: run the harness as another user"
        )
    })?;
    Ok(Some(user))
}

fn start_server(
    servers: &mut Servers,
    number: u8,
    installed: &Installed,
    common: &[(&str, String)],
) -> anyhow::Result<()> {
    let address = servers.client_address(number);
    let own = [
        ("listen_addresses", address.ip().to_string()),
        ("port", address.port().to_string()),
        ("unix_socket_directories", String::new()),
    ];
    let mut arguments = vec!["-D".to_owned(), ".".to_owned()];
    for (name, value) in own.iter().chain(common) {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    servers.start(number, installed.program(), &arguments)
}

/// A copy of the primary into the server's directory, set up to follow it under the server's name.
fn basebackup(primary: SocketAddr, number: u8) -> [String; 5] {
    let (host, port) = (primary.ip(), primary.port());
    let name = standby_name(number);
    [
        format!("--dbname=host={host} port={port} user={ROLE} application_name={name}"),
        "--pgdata=.".to_owned(),
        "--checkpoint=fast".to_owned(),
        "--wal-method=stream".to_owned(),
        "--write-recovery-conf".to_owned(),
    ]
}

fn standby_name(number: u8) -> String {
    format!("node_{number}")
}

/// What differs from PostgreSQL's defaults.
fn common_settings(quorums: Quorums, durability: Durability) -> Vec<(&'static str, String)> {
    let fsync = match durability {
        Durability::Fsync => "on",
        Durability::Os => "off",
    };
    let connections = PeerKind::Postgres.clients_max() + CONNECTIONS_SPARE;
    vec![
        ("synchronous_standby_names", standby_names(quorums)),
        ("synchronous_commit", "on".to_owned()),
        ("fsync", fsync.to_owned()),
        ("shared_buffers", "512MB".to_owned()),
        ("max_connections", connections.to_string()),
    ]
}

fn standby_names(quorums: Quorums) -> String {
    match quorums.quorum() - 1 {
        0 => String::new(),
        standbys => {
            let names: Vec<_> = (2..=quorums.replicas()).map(standby_name).collect();
            format!("ANY {standbys} ({})", names.join(", "))
        }
    }
}

fn acknowledgement(quorums: Quorums, durability: Durability) -> String {
    let held = match durability {
        Durability::Fsync => "synced it to its log",
        Durability::Os => "handed it to the operating system (fsync = off: a power cut may damage the data)",
    };
    let (who, failover) = match quorums.quorum() - 1 {
        0 => ("the primary has".to_owned(), "A failover loses what no standby had received".to_owned()),
        standbys => (
            format!("the primary and {standbys} of its standbys have"),
            "Failover is left to other programs, and keeps it if they promote the standby that has most"
                .to_owned(),
        ),
    };
    format!("{who} {held}. {failover}. A commit whose wait is cancelled looks like an acknowledged one")
}

/// Makes the table, without waiting for standbys that are not there yet.
async fn create_table(primary: SocketAddr) -> Result<(), String> {
    let script = format!("set synchronous_commit = local; drop table if exists store; {CREATE}");
    with_client(primary, async |client| client.batch_execute(&script).await).await
}

/// An error says what is missing.
async fn standbys_stream(primary: SocketAddr, quorums: Quorums) -> Result<(), String> {
    let any = quorums.quorum() == 1;
    let row = with_client(primary, async |client| client.query_one(STREAMING, &[&any]).await).await?;
    let (streaming, standbys) = (row.get::<_, i64>(0), i64::from(quorums.replicas() - 1));
    if streaming == standbys {
        return Ok(());
    }
    Err(format!("{streaming} of {standbys} standbys follow the primary"))
}

/// Works with a connection of its own.
async fn with_client<T>(
    primary: SocketAddr,
    work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Result<T, String> {
    let (client, driver) = connect(primary).await.map_err(|error| error.reason)?;
    let driver = async {
        // Its error is that of the work, which cannot go on.
        let _ = driver.await;
        pending().await
    };
    work(&client).or(driver).await.map_err(|error| words(&error))
}

/// A client, and what moves its bytes.
async fn connect(address: SocketAddr) -> Result<(Client, Driver), CallError> {
    let stream = Stream::connect(address).await.map_err(|error| refused(format!("{address}: {error}")))?;
    let mut config = Config::new();
    config.user(ROLE).dbname(ROLE);
    config.connect_raw(stream.compat(), NoTls).await.map_err(|error| refused(words(&error)))
}

type Driver = tokio_postgres::Connection<Compat<Stream>, NoTlsStream>;

/// One client's connection, used by several callers at once: the server takes their calls in order, each a
/// transaction of its own.
pub(super) struct Connection {
    client: Client,
    upsert: Statement,
    select: Statement,
    deadlines: Deadlines,
    /// Ends with the connection.
    _driver: Task<()>,
}

impl Connection {
    /// Connects and prepares. Each call is given up after `deadline`.
    pub(super) async fn open(
        primary: &Primary,
        deadline: Duration,
        executor: &LocalExecutor<'static>,
    ) -> Result<Self, CallError> {
        let deadlines = Deadlines::new(deadline, executor);
        let (client, driver) = deadlines.bound(connect(primary.address)).await.ok_or_else(timed_out)??;
        let driver = executor.spawn(async move {
            // Calls get the error.
            let _ = driver.await;
        });
        let prepared = deadlines.bound(try_zip(client.prepare(UPSERT), client.prepare(SELECT))).await;
        let (upsert, select) = prepared.ok_or_else(timed_out)?.map_err(|error| failure(&error))?;
        Ok(Self { client, upsert, select, deadlines, _driver: driver })
    }

    /// Sets a key.
    pub(super) async fn write(&self, key: &[u8], value: &[u8]) -> Result<(), CallError> {
        self.call(self.client.execute(&self.upsert, &[&key, &value])).await.map(drop)
    }

    /// What a key holds.
    pub(super) async fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        let row = self.call(self.client.query_opt(&self.select, &[&key])).await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, CallError> {
        if self.client.is_closed() {
            // Whoever is refused at once lets others run.
            yield_now().await;
        }
        self.deadlines.bound(call).await.ok_or_else(timed_out)?.map_err(|error| failure(&error))
    }
}

/// An error of the server has rolled the call's transaction back, unless it ends the connection.
fn failure(error: &Error) -> CallError {
    match error.code() {
        Some(code) if !code.code().starts_with(OPERATOR_INTERVENTION) => refused(words(error)),
        _ => unknown(words(error)),
    }
}

/// The error and what caused it.
fn words(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_standbys_are_waited_for_as_the_quorum_has_beside_the_primary() {
        let names = |replicas, quorum| standby_names(Quorums::new(replicas, quorum).unwrap());
        assert_eq!(names(3, 1), "");
        assert_eq!(names(3, 2), "ANY 1 (node_2, node_3)");
        assert_eq!(names(3, 3), "ANY 2 (node_2, node_3)");
    }

    #[test]
    fn only_root_needs_another_user() {
        assert_eq!(user(false).unwrap(), None);
    }
}
