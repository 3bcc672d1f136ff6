//! Redis: a primary and its replicas.
//!
//! The primary is server 1. What a write's acknowledgement means is decided by two things: `appendfsync`,
//! which says whether the primary syncs its append-only file before it answers, and the confirmation that
//! this client asks for after it, WAIT or WAITAOF.

mod connection;
mod reply;

use std::net::SocketAddr;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use quorate_protocol::Durability;
use rustix::process::Signal;

use super::installed::{Installed, version_at_least};
use super::servers::{Manners, Servers};
use super::stream::Stream;
use super::target::Store;
use super::{Settings, Started};
pub(super) use connection::Connection;
use reply::{Reply, write_command};

/// The version that brought WAITAOF.
const WAITAOF_SINCE: [u32; 2] = [7, 2];

/// Where writes go, and how they are confirmed.
#[derive(Clone, Debug)]
pub(super) struct Primary {
    /// Where it takes clients.
    pub(super) address: SocketAddr,
    /// What follows writes.
    pub(super) confirmation: Confirmation,
}

/// What has to be said by replicas before a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Confirmation {
    /// Nothing: the primary's answer is enough.
    None,
    /// WAIT: so many replicas have received it.
    Received {
        /// Replicas, the primary not counted.
        replicas: u8,
    },
    /// WAITAOF: the primary and so many replicas have synced it.
    Synced {
        /// Replicas, the primary not counted.
        replicas: u8,
    },
}

impl Confirmation {
    fn new(settings: &Settings, version: &str) -> Self {
        let replicas = settings.quorums.quorum() - 1;
        match settings.durability {
            _ if replicas == 0 => Self::None,
            Durability::Fsync if version_at_least(version, WAITAOF_SINCE) => Self::Synced { replicas },
            _ => Self::Received { replicas },
        }
    }

    /// Appends the command that asks for it, which the server answers within `time_max`; false if there is
    /// none.
    fn write(self, buffer: &mut Vec<u8>, time_max: Duration) -> bool {
        let time_max_ms = time_max.as_millis().max(1).to_string();
        match self {
            Self::None => return false,
            Self::Received { replicas } => {
                write_command(buffer, &[b"WAIT", replicas.to_string().as_bytes(), time_max_ms.as_bytes()]);
            }
            Self::Synced { replicas } => {
                let replicas = replicas.to_string();
                write_command(buffer, &[b"WAITAOF", b"1", replicas.as_bytes(), time_max_ms.as_bytes()]);
            }
        }
        true
    }

    /// Whether the reply confirms the writes before it, and else what is missing; none if it is no reply to
    /// this.
    fn judge(self, reply: &Reply<'_>) -> Option<Result<(), String>> {
        let (have, need) = match (self, reply) {
            (_, Reply::Error(reason)) => return Some(Err((*reason).to_owned())),
            (Self::Received { replicas }, Reply::Number(have)) => (*have, replicas),
            (Self::Synced { replicas }, Reply::Numbers(numbers)) => match numbers[..] {
                [synced, have] if synced >= 1 => (have, replicas),
                [_, _] => return Some(Err("the primary did not sync in time".to_owned())),
                _ => return None,
            },
            _ => return None,
        };
        Some(if have >= i64::from(need) {
            Ok(())
        } else {
            Err(format!("{have} of {need} replicas confirmed in time"))
        })
    }
}

/// Starts the servers, and waits until every replica follows the primary.
pub(super) async fn start(settings: &Settings, installed: &Installed) -> anyhow::Result<Started> {
    let manners = Manners { launcher: settings.launcher.clone(), end: Signal::KILL, user: None };
    let replicas = settings.quorums.replicas();
    let mut servers = Servers::prepare(manners, replicas, &settings.directory)?;
    let primary = servers.client_address(1);
    for number in 1..=replicas {
        let mut arguments = own_arguments(&servers, number);
        for (name, value) in common_settings(settings.durability) {
            arguments.extend([format!("--{name}"), value.to_owned()]);
        }
        if number > 1 {
            let [host, port] = [primary.ip().to_string(), primary.port().to_string()];
            arguments.extend(["--replicaof".to_owned(), host, port]);
        }
        servers.start(number, installed.program(), &arguments)?;
    }
    servers.wait_until(async || replicas_follow(primary, replicas - 1).await).await?;
    let confirmation = Confirmation::new(settings, installed.version());
    Ok(Started {
        servers,
        store: Store::Redis(Primary { address: primary, confirmation }),
        acknowledgement: acknowledgement(confirmation, settings.durability),
        settings: common_settings(settings.durability)
            .map(|(name, value)| format!("{name} {value:?}"))
            .into(),
    })
}

fn own_arguments(servers: &Servers, number: u8) -> Vec<String> {
    let address = servers.client_address(number);
    let data = servers.data_directory(number).display().to_string();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    ["--bind", &host, "--port", &port, "--dir", &data].map(str::to_owned).into()
}

/// What differs from Redis's defaults.
fn common_settings(durability: Durability) -> [(&'static str, &'static str); 4] {
    let appendfsync = match durability {
        Durability::Fsync => "always",
        Durability::Os => "everysec",
    };
    [("appendonly", "yes"), ("appendfsync", appendfsync), ("save", ""), ("repl-diskless-sync-delay", "0")]
}

fn acknowledgement(confirmation: Confirmation, durability: Durability) -> String {
    let primary = match durability {
        Durability::Fsync => "the primary has synced it to its append-only file",
        Durability::Os => "the primary has handed it to the operating system, which syncs it within seconds",
    };
    let replicas = match confirmation {
        Confirmation::None => "no replica is waited for".to_owned(),
        Confirmation::Received { replicas } => format!(
            "WAIT says that {replicas} of its replicas received it, in memory; this says nothing of their \
             disks, which WAITAOF does in Redis 7.2 and later"
        ),
        Confirmation::Synced { replicas } => {
            format!("WAITAOF says that {replicas} of its replicas synced it to theirs")
        }
    };
    format!(
        "{primary}, and {replicas}. A failover may lose it: the replica that is promoted need not be one that \
         has it"
    )
}

/// An error says what is missing.
async fn replicas_follow(primary: SocketAddr, replicas: u8) -> Result<(), String> {
    let information = ask(primary, &[b"INFO", b"replication"]).await?;
    let online = information.matches("state=online").count();
    if online == usize::from(replicas) {
        return Ok(());
    }
    Err(format!("{online} of {replicas} replicas follow the primary"))
}

/// One command on a connection of its own, answered with a text.
async fn ask(address: SocketAddr, command: &[&[u8]]) -> Result<String, String> {
    let mut request = Vec::new();
    write_command(&mut request, command);
    let answer = async {
        let mut stream = Stream::connect(address).await?;
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let bytes = stream.read(&mut chunk).await?;
            answer.extend_from_slice(&chunk[..bytes]);
            match reply::read(&answer) {
                Ok(Some((Reply::Bulk(Some(text)), _))) => {
                    break Ok(String::from_utf8_lossy(text).into_owned());
                }
                Ok(None) if bytes > 0 => {}
                _ => break Err(std::io::Error::other("the primary's answer is none to INFO")),
            }
        }
    };
    answer.await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_confirmed_when_enough_replicas_say_so() {
        let wait = Confirmation::Received { replicas: 2 };
        assert_eq!(wait.judge(&Reply::Number(2)), Some(Ok(())));
        let missing = "1 of 2 replicas confirmed in time".to_owned();
        assert_eq!(wait.judge(&Reply::Number(1)), Some(Err(missing.clone())));
        assert_eq!(wait.judge(&Reply::Status), None);

        let waitaof = Confirmation::Synced { replicas: 2 };
        assert_eq!(waitaof.judge(&Reply::Numbers(vec![1, 2])), Some(Ok(())));
        assert_eq!(waitaof.judge(&Reply::Numbers(vec![1, 1])), Some(Err(missing)));
        assert!(waitaof.judge(&Reply::Numbers(vec![0, 2])).is_some_and(|judged| judged.is_err()));
        assert_eq!(waitaof.judge(&Reply::Numbers(vec![1])), None);
        assert_eq!(waitaof.judge(&Reply::Number(2)), None);
    }

    #[test]
    fn a_confirmation_is_asked_for_with_a_time_limit() {
        let asked = |confirmation: Confirmation| {
            let mut buffer = Vec::new();
            confirmation.write(&mut buffer, Duration::from_secs(5)).then_some(buffer)
        };
        assert_eq!(asked(Confirmation::None), None);
        let wait = asked(Confirmation::Received { replicas: 1 });
        assert_eq!(wait.unwrap(), b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n5000\r\n");
        let waitaof = asked(Confirmation::Synced { replicas: 1 });
        assert_eq!(waitaof.unwrap(), b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n1\r\n$4\r\n5000\r\n");
    }
}
