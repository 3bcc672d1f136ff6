//! Client of Quorate, a small replicated key-value store.
//!
//! ```no_run
//! use quorate_client::Client;
//! use quorate_client::blocking::Wait;
//!
//! fn main() -> Result<(), quorate_client::Error> {
//!     let client = Client::connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"])?;
//!     let written = client.set("greeting", "hello").wait()?;
//!     println!("on {} replicas, survives {} losses", written.receipt.holders.len(), written.receipt.survivable_losses);
//!     if let Some(found) = client.get("greeting").wait()?.value {
//!         println!("{}", String::from_utf8_lossy(&found.value));
//!     }
//!     client.close().wait();
//!     Ok(())
//! }
//! ```
//!
//! It is added with `cargo add quorate-client`, or in a checkout of the project with
//! `cargo add --path client quorate-client`.
//!
//! In async code, on any executor, the same calls are awaited: `client.set("greeting", "hello").await?`.
//!
//! # What there is
//!
//! | | |
//! |---|---|
//! | [`get`](Client::get), [`set`](Client::set), [`delete`](Client::delete), [`compare_and_set`](Client::compare_and_set), [`batch`](Client::batch) | calls, set up like builders and then awaited |
//! | [`scan`](Client::scan) | the keys of a range, page by page |
//! | [`watch`](Client::watch), [`watch_key`](Client::watch_key) | the changes of a range, in order, without gap or repetition |
//! | [`acks`](WriteCall::acks), [`progress`](WriteCall::progress) | at how many durable copies a write is done; a receipt at each |
//! | [`Consistency`], [`SessionToken`] | how fresh reads are; what a client has seen, for another process |
//! | [`typed`](Client::typed), [`batch_of`](Client::batch_of) | keys and values of any serde type; several of their writes together |
//! | [`blocking`] | the same without async |
//! | [`Builder`] | deadlines, bounds, who answers reads |
//!
//! # What it promises
//!
//! - **Every call ends within its deadline**, with a result or with an error that says what may be done
//!   ([`Error::kind`]): the same call may succeed later, somebody must change something first, or the outcome is
//!   unknown. Tries at other replicas are made within the deadline, with pauses that grow and differ.
//! - **A write happens at most once.** It has a number in the client's session, and is sent again, to whoever leads,
//!   until it has its result: the first one, also across failovers, restarts and checkpoints. A session that is not used
//!   for long expires; a write that may have happened in it is then unknown, and one that cannot have goes on in
//!   another.
//! - **A write that may have happened is never called failed**: it ends as [`Error::OutcomeUnknown`], with what is
//!   known of it.
//! - **A write says how safe it is**: its [`Receipt`] names the replicas that hold it durably, what "durably" means,
//!   whether a failover keeps it, and how many losses it survives.
//! - **Reads are as fresh as they say** ([`Consistency`]): also across replicas and failovers, a session reads what it
//!   has written, and never goes backwards.
//! - **Everything is bounded**: calls in flight ([`Builder::in_flight_max`]), what is queued for a connection, what a
//!   watch holds that is not taken from it.
//! - One pipelined connection to each replica that is used; what is queued when one is ready goes out in one send.
//!
//! # What it does not
//!
//! - A dropped call is given up, not taken back: a write may happen all the same.
//! - A [`batch`](Client::batch) is atomic; several calls together are not, nor are the pages of a scan a snapshot.
//! - Exactly once ends with the process: what a client that died has in flight is unknown to its successor. Use
//!   [`compare_and_set`](Client::compare_and_set) where that matters.
//! - A client belongs to the cluster that it met first: after a cluster was made anew, or restored from a backup, under
//!   the same addresses it refuses the new one, as its session and what it has seen mean nothing there. Make another.
//! - A watch tells what a replica has applied: one that is cut off from its leader tells nothing new until it is back.
//! - No encryption and no authentication yet: only for networks that are trusted.
//!
//! # Tests of applications
//!
//! `quorate_server::testing::TestCluster`, of the crate `quorate-server` with its feature `testing`, runs a cluster
//! within a test, whose nodes can be killed and restarted.
//!
//! # Features
//!
//! `load`: load generation, closed and open loop, with latency histograms. `cli`: the command line `quorate`.

mod address;
mod backoff;
pub mod blocking;
mod builder;
mod call;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod client;
mod data;
mod deadline;
mod error;
mod in_flight;
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
mod tasks;
mod token;
mod typed;
mod watch;

pub use builder::{Builder, WhenFull};
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
pub use tasks::Driver;
pub use token::{InvalidToken, SessionToken};
pub use typed::{Typed, TypedChange, TypedGet, TypedScan, TypedValue, TypedWatch};
pub use watch::Watch;
