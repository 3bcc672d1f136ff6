//! What is loaded, seen from the generator: connections that write and read, and calls that fail.

use std::future::Future;
use std::rc::Rc;

use smol::LocalExecutor;
use thiserror::Error;

/// What is loaded.
///
/// Everything runs on the thread that called [`run`](super::run); a target whose client needs a runtime of
/// its own brings it along.
pub trait Target {
    /// One client's connection.
    type Connection: Connection + 'static;

    /// Opens connection `number`, counted from 0. What has to run beside the calls is spawned on `executor`,
    /// which ends with the run.
    fn connect(
        &self,
        number: u32,
        executor: &Rc<LocalExecutor<'static>>,
    ) -> impl Future<Output = Result<Self::Connection, CallError>>;
}

/// One client's connection; its calls are made by as many tasks at once as the workload has in flight.
///
/// Every call ends within a deadline that the target sets, and waits at least once before it does: all tasks
/// share a thread.
pub trait Connection {
    /// Gives `key` a value.
    ///
    /// The revision of the write if the store has such a number, which rises with every write of a key; none
    /// where it has not: then no [`Record`](super::Record) can be kept.
    fn write(&self, key: &[u8], value: &[u8]) -> impl Future<Output = Result<Option<u64>, CallError>>;

    /// Reads `key`; an absent key is read as well.
    fn read(&self, key: &[u8]) -> impl Future<Output = Result<(), CallError>>;
}

/// Why a call was not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{reason}")]
pub struct CallError {
    /// What is known of its outcome.
    pub outcome: Failed,
    /// Why, in words; what differs from call to call, such as a key, does not belong here.
    pub reason: String,
}

/// What is known of a call that was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// It did not happen.
    Refused,
    /// It may have happened: a timeout, or a connection that was lost.
    Unknown,
}
