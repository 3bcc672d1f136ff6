//! Client of Quorate, a small replicated key-value store.
//!
//! ```no_run
//! use quorate_client::Client;
//!
//! fn main() -> Result<(), quorate_client::Error> {
//!     smol::block_on(async {
//!         let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"])?;
//!         let written = client.set("greeting", "hello").await?;
//!         println!("revision {}, on {} replicas", written.revision(), written.receipt.holders.len());
//!         if let Some(found) = client.get("greeting").await?.value {
//!             println!("{}", String::from_utf8_lossy(&found.value));
//!         }
//!         client.close().await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # What it promises
//!
//! - Every call ends within its deadline, with a result or with an error that says what may be done
//!   ([`Error::kind`]).
//! - A write is sent once. It is sent again only when nothing of it was done: it was refused, or no byte of
//!   it had left. A write that may have happened is [`Error::OutcomeUnknown`], never a failure.
//! - Reads are tried again until their deadline.
//! - The leader is followed, and servers are tried in turn.
//!
//! # What it does not
//!
//! - It does not repeat a write whose outcome is unknown: the caller reads, and decides.
//! - It does not carry session tokens from call to call: every result holds its token, for
//!   [`Client::with_consistency`].
//!
//! # Features
//!
//! `load`: load generation, closed and open loop, with latency histograms. `cli`: the command line `quorate`.

mod backoff;
mod builder;
mod call;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod client;
mod data;
mod deadline;
mod error;
mod link;
#[cfg(feature = "load")]
pub mod load;
mod operations;
mod reply;
#[doc(hidden)]
pub mod retry;
mod route;
mod scan;
mod shared;
mod token;
mod watch;

pub use builder::{Builder, Driver, WhenFull};
pub use client::Client;
pub use data::Data;
pub use error::{Appended, Error, ErrorKind, Unknown, Why};
pub use operations::{Consistency, GetCall, Progress, WriteCall};
pub use quorate_protocol::request::{Acks, Expected, Mutation, Range, RangeEnd};
pub use quorate_protocol::response::{Obstacle, Receipt, Refusal, Role, SessionError, WriteResult};
pub use quorate_protocol::{Durability, NodeId, NodeSet};
pub use reply::{Change, KeyValue, Lookup, NodeStatus, Page, Value, Written};
pub use route::ReadFrom;
pub use scan::{Scan, prefix};
pub use token::{InvalidToken, SessionToken};
pub use watch::Watch;
