//! The harness of Quorate: starts a real cluster, loads it, and shows what its quorum costs.
//!
//! Four nouns, in the order they happen:
//!
//! - command line: [`options`], humane [`units`];
//! - [`plan`]: the cases that will be measured, decided before anything starts;
//! - run: [`session`] takes the cases one by one, [`run`] measures one with a [`cluster`] of real
//!   processes, the client crate's load, [`lag`] and [`verify`];
//! - [`report`]: one result, shown as a table or kept as JSON, with its [`environment`]; beside the figures
//!   belong the [`resources`] that a run used and the [`floor`] under its latency.
//!
//! Two reports are told apart by [`compare`], and those of several generators become one by [`merge`].
//!
//! The nodes are this program again, with the hidden subcommand of [`node`]. [`peers`] are other stores that
//! take the same load; only those that this program was built with can be started. The program's output goes to
//! standard output and nothing else does; progress, warnings and errors go to standard error.
//!
//! # What it does not
//!
//! One closed loop, uniform keys, writes only; one machine; no faults during a run; no repeats. Tests use
//! [`cluster`] to break things.

pub mod cluster;
pub mod compare;
pub mod environment;
pub mod failure;
pub mod floor;
pub mod interrupt;
pub mod lag;
pub mod members;
pub mod merge;
pub mod node;
pub mod options;
pub mod peers;
pub mod place;
pub mod plan;
pub mod progress;
pub mod proxy;
pub mod report;
pub mod resources;
pub mod run;
pub mod session;
pub mod slo;
pub mod units;
pub mod verify;
pub mod visible;
