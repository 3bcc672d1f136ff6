//! A replica of Quorate, a small replicated key-value store: one leader takes the writes, appends them to a
//! log, and sends the log to every replica; a write is acknowledged when n of the m replicas hold it durably.
//!
//! How the parts hang together, and what each alone knows, is in ARCHITECTURE.md. From the inside out:
//!
//! - [`replica`]: every replication decision, as a pure state machine.
//! - [`store`]: the data in memory.
//! - [`log`], [`checkpoint`], [`directory`]: the data on disk, over the traits of [`disk`].
//! - [`node`]: the parts above joined, in synchronous turns.
//! - [`server`]: sockets, threads and one event loop around a node.
//! - [`offline`]: checking, printing, backing up and restoring a data directory.
//! - [`machine`]: what the machine offers, for defaults.
//! - [`cli`]: the program.
//! - `testing`, with the feature of that name: a cluster inside a test, for applications' own tests.

pub mod checkpoint;
pub mod cli;
mod clock;
pub mod directory;
pub mod disk;
pub mod log;
pub mod machine;
mod mutant;
mod net;
pub mod node;
pub mod offline;
pub mod replica;
pub mod server;
mod shell;
#[cfg(test)]
mod sim;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
