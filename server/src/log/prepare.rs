//! The next segment, filled with zeros ahead of its use by a thread of its own.
//!
//! A sync onto blocks that were written before costs two thirds of one that fills allocated space, so
//! segments are zeroed first. The zeros go out in small synced pieces with pauses between, or their
//! write-back would hold up the log's own syncs.
//!
//! A segment that is in use is never touched: the thread creates a new file under [`FILE_NAME`], and is
//! asked for the next one only after the one before has been renamed away.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::{Disk, DiskFile};

/// What the file is called until it is taken into use.
pub(super) const FILE_NAME: &str = "next.tmp";

/// Bytes of zeros synced at once.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of zeros written at once. The system caches each write as one unit, and goes through all blocks of a unit
/// whenever the log writes to some: with 1 MiB a batch of the log took 6 µs of processor longer.
const WRITE_BYTES: usize = 32 << 10;

/// Between two pieces. With it a segment of 64 MiB takes some 200 ms.
const PAUSE: Duration = Duration::from_millis(1);

/// How far the next segment is.
enum State {
    /// Nobody has asked.
    Idle,
    Wanted,
    Ready(Arc<dyn DiskFile>),
    /// Nobody will ask again.
    Stopped,
}

struct Job {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Prepares one segment file at a time. Dropping it ends its thread.
pub(super) struct Preparer {
    job: Arc<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// Starts the thread, which begins at once with a file of `bytes` in `directory`.
    pub(super) fn start(disk: Arc<dyn Disk>, directory: PathBuf, bytes: u64) -> io::Result<Self> {
        let state = Mutex::new(State::Wanted);
        let path = directory.join(FILE_NAME);
        let job = Arc::new(Job { disk, path, bytes, state, changed: Condvar::new() });
        let thread = thread::Builder::new().name("log-prepare".to_owned()).spawn({
            let job = Arc::clone(&job);
            move || job.run()
        })?;
        Ok(Self { job, thread: Some(thread) })
    }

    /// The prepared file, if it is ready.
    pub(super) fn take(&self) -> Option<Arc<dyn DiskFile>> {
        let mut state = self.job.lock();
        if !matches!(*state, State::Ready(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Idle) {
            State::Ready(file) => Some(file),
            _ => None,
        }
    }

    /// Asks for the next file, unless one is ready or under way.
    pub(super) fn request(&self) {
        let mut state = self.job.lock();
        if matches!(*state, State::Idle) {
            *state = State::Wanted;
            self.job.changed.notify_all();
        }
    }

    /// Waits until nothing is under way, and says whether a file is ready.
    #[cfg(test)]
    pub(super) fn settle(&self) -> bool {
        let mut state = self.job.lock();
        while matches!(*state, State::Wanted) {
            state = self.job.changed.wait(state).unwrap();
        }
        matches!(*state, State::Ready(_))
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        *self.job.lock() = State::Stopped;
        self.job.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its own thread, and costs nothing but the zeros.
            let _ = thread.join();
        }
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    fn run(&self) {
        loop {
            let mut state = self.lock();
            while matches!(*state, State::Idle | State::Ready(_)) {
                state = self.changed.wait(state).expect("nothing panics while it holds this lock");
            }
            if matches!(*state, State::Stopped) {
                return;
            }
            drop(state);
            let prepared = self.prepare();
            let mut state = self.lock();
            if matches!(*state, State::Stopped) {
                return;
            }
            *state = match prepared {
                Ok(file) => State::Ready(file),
                Err(error) => {
                    // The log does without: it creates the file itself, and meets the error if it lasts.
                    tracing::warn!(file = %self.path.display(), %error, "cannot prepare the next log segment");
                    let _ = self.disk.remove(&self.path);
                    State::Idle
                }
            };
            self.changed.notify_all();
        }
    }

    /// Creates the file and fills it; cut short, with an error, when the log stops.
    fn prepare(&self) -> io::Result<Arc<dyn DiskFile>> {
        // What an attempt left that could not be taken into use.
        match self.disk.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&self.path)?;
        let mut offset = 0;
        while offset < self.bytes {
            let end = self.bytes.min(offset + PIECE_BYTES as u64);
            while offset < end {
                let bytes = WRITE_BYTES.min((end - offset) as usize);
                file.write_all_at(&[0; WRITE_BYTES][..bytes], offset)?;
                offset += bytes as u64;
            }
            file.sync_data()?;
            let state = self.lock();
            let wait = self.changed.wait_timeout_while(state, PAUSE, |s| !matches!(s, State::Stopped));
            let (state, _) = wait.expect("nothing panics while it holds this lock");
            if matches!(*state, State::Stopped) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(file)
    }
}
