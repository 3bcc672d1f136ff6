//! How a client is set up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_protocol::request::{Consistency, WriteOptions};

use crate::client::{Client, Handle};
use crate::shared::Shared;
use crate::{Error, driver};

/// What the driver is set up with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<String>,
    pub(crate) cluster: String,
    pub(crate) in_flight_max: usize,
    pub(crate) connect_timeout: Duration,
}

/// Sets up a [`Client`].
///
/// ```
/// # fn main() -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
///
/// let (client, driver) = quorate_client::Client::builder()
///     .servers(["127.0.0.1:7401", "127.0.0.1:7402"])
///     .deadline(Duration::from_millis(500))
///     .build()?;
/// let executor = smol::LocalExecutor::new();
/// executor.spawn(driver).detach();
/// # drop(client);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Builder {
    settings: Settings,
    deadline: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        let settings = Settings {
            servers: Vec::new(),
            cluster: String::new(),
            in_flight_max: 4096,
            connect_timeout: Duration::from_secs(1),
        };
        Self { settings, deadline: Duration::from_secs(2) }
    }
}

impl Builder {
    /// Adds servers, `HOST:PORT` each, which are tried in this order.
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// The cluster's name: servers of another are refused. Any cluster, unless set.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.settings.cluster = name.into();
        self
    }

    /// How long a call may take, retries included; 2 s unless set. Kept to within about 5 ms.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Calls that may be open at once, at least 1; 4096 unless set, and never more than the server allows.
    /// Further calls wait for a place within their deadline.
    pub fn in_flight_max(mut self, calls: usize) -> Self {
        self.settings.in_flight_max = calls.max(1);
        self
    }

    /// How long one server may take to accept a connection before the next is tried; 1 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// A client, and the driver that the caller has to run for it: on any executor, any thread.
    ///
    /// No connection is made before the first call. [`Error::NoServers`] if no server was named.
    pub fn build(self) -> Result<(Client, Driver), Error> {
        if self.settings.servers.is_empty() {
            return Err(Error::NoServers);
        }
        let shared = Arc::new(Shared::new(self.settings));
        let driver = Driver { drive: Box::pin(driver::drive(shared.clone())), shared: shared.clone() };
        let client = Client {
            handle: Arc::new(Handle { shared }),
            deadline: self.deadline,
            consistency: Consistency::Linearizable,
            options: WriteOptions::default(),
        };
        Ok((client, driver))
    }

    /// A client whose driver runs on smol's global executor. [`Error::NoServers`] if no server was named.
    pub fn connect(self) -> Result<Client, Error> {
        let (client, driver) = self.build()?;
        smol::spawn(driver).detach();
        Ok(client)
    }
}

/// Does the work of a [`Client`]'s connection: connects, sends, receives, follows the leader.
///
/// Ends when the client was closed or every handle dropped, and nothing is in flight. If it is dropped
/// before, open calls end with an error.
#[must_use = "a client without its driver does nothing"]
pub struct Driver {
    drive: Pin<Box<dyn Future<Output = ()> + Send>>,
    shared: Arc<Shared>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.drive.as_mut().poll(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.driver_ended();
    }
}
