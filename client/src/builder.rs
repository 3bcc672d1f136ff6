//! How a client is set up.

use std::sync::Arc;
use std::time::Duration;

use crate::address;
use crate::client::{Client, Handle};
use crate::route::ReadFrom;
use crate::shared::Shared;
use crate::tasks::{Driver, Tasks};
use crate::{Consistency, Error, SessionToken};

/// What a client's connections are set up with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<String>,
    pub(crate) discovers: bool,
    pub(crate) cluster: String,
    pub(crate) in_flight_max: usize,
    pub(crate) when_full: WhenFull,
    pub(crate) connect_timeout: Duration,
    pub(crate) exactly_once: bool,
    pub(crate) read_from: ReadFrom,
}

/// What a call does that finds as many in flight as allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It waits for a place, within its deadline.
    #[default]
    Wait,
    /// It ends at once with [`Error::InFlight`].
    Refuse,
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
    consistency: Consistency,
    seen: SessionToken,
}

impl Default for Builder {
    fn default() -> Self {
        let settings = Settings {
            servers: Vec::new(),
            discovers: true,
            cluster: String::new(),
            in_flight_max: 4096,
            when_full: WhenFull::default(),
            connect_timeout: Duration::from_secs(1),
            exactly_once: true,
            read_from: ReadFrom::default(),
        };
        Self {
            settings,
            deadline: Duration::from_secs(2),
            consistency: Consistency::default(),
            seen: SessionToken::default(),
        }
    }
}

impl Builder {
    /// Adds servers, `HOST:PORT` each, an IPv6 address in brackets: any replicas of the cluster. Spaces around them, as
    /// in the parts of a list, do not count.
    pub fn servers(mut self, servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// Whether session and local reads, watches and [`status`](Client::status) may go to replicas that are not named
    /// here; yes, unless set. The leader is found in any case.
    pub fn discover(mut self, discover: bool) -> Self {
        self.settings.discovers = discover;
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

    /// How fresh reads are; linearizable unless set.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Which replica answers session and local reads; the nearest unless set.
    pub fn read_from(mut self, read_from: ReadFrom) -> Self {
        self.settings.read_from = read_from;
        self
    }

    /// What another client has seen, as it [exported](Client::session_token) it: session reads see no less.
    pub fn session_token(mut self, token: SessionToken) -> Self {
        self.seen = token;
        self
    }

    /// Whether a write that may have happened is sent again, and happens once all the same; yes, unless set. It
    /// costs a session in the cluster: one more round trip before the first write. Without, such a write ends as
    /// [`Error::OutcomeUnknown`].
    pub fn exactly_once(mut self, exactly_once: bool) -> Self {
        self.settings.exactly_once = exactly_once;
        self
    }

    /// Calls that may be open at once on one connection, watches included, at least 1; 4096 unless set, and never more
    /// than the server allows.
    pub fn in_flight_max(mut self, calls: usize) -> Self {
        self.settings.in_flight_max = calls.max(1);
        self
    }

    /// What a call does that finds no place; it waits unless set.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.settings.when_full = when_full;
        self
    }

    /// How long one server may take to accept a connection; 1 s unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// A client, and the driver that the caller has to run for it: on any executor, any thread.
    ///
    /// No connection is made before the first call.
    ///
    /// # Errors
    ///
    /// [`Error::NoServers`] if no server was named, and [`Error::InvalidServer`] if one can never be reached by what was
    /// named. Names are not resolved yet.
    pub fn build(mut self) -> Result<(Client, Driver), Error> {
        if self.settings.servers.is_empty() {
            return Err(Error::NoServers);
        }
        for server in &mut self.settings.servers {
            *server = address::checked(server)?.into();
        }
        let tasks = Arc::new(Tasks::default());
        let shared = Arc::new(Shared::new(self.settings, Arc::downgrade(&tasks)));
        shared.saw(self.seen.0);
        let driver = Driver::new(tasks, shared.clone());
        let client = Client {
            handle: Arc::new(Handle { shared }),
            deadline: self.deadline,
            consistency: self.consistency,
        };
        Ok((client, driver))
    }

    /// A client whose driver runs on smol's global executor. Its errors are those of [`build`](Self::build).
    pub fn connect(self) -> Result<Client, Error> {
        let (client, driver) = self.build()?;
        smol::spawn(driver).detach();
        Ok(client)
    }
}
