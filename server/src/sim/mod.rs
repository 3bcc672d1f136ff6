//! Whole nodes in one thread, over a simulated disk: what production runs, without its threads and sockets.
//!
//! - `node`: a node, its log and its checkpoints, moved step by step.
//! - `checkpoint`: a checkpoint that such a node writes.
//! - `history`: what the node has been made to store and has said, and so what a directory must hold.
//! - `sessions`: sessions of clients, as plainly as can be.
//! - `script`: the rest of the world: a leader that changes its mind, or clients and followers.
//! - `crash_points`: power lost after every change to the disk (T3).
//! - `bit_rot`: every bit flipped, blocks lost, files cut (T5).
//! - `installs`: power lost while a follower goes on behind a checkpoint that it was sent (T3).
//! - `io_errors`: every call failing (T6).
//! - `cluster`: all nodes of a cluster, with network, disks, clocks, clients and faults (T1).
//! - `mutants`: known bugs, each of which one of these finds (T2, as far as it is about storage).
//!
//! Everything follows from a seed. What a test tries by default is a sample; `QUORATE_EXHAUSTIVE=1` is everything.

mod bit_rot;
mod checkpoint;
mod cluster;
mod crash_points;
mod history;
mod installs;
mod io_errors;
mod mutants;
mod node;
mod script;
mod sessions;
mod vanished;

/// Whether everything is to be tried, not a sample.
fn is_exhaustive() -> bool {
    std::env::var_os("QUORATE_EXHAUSTIVE").is_some_and(|value| value != "0")
}

/// Random numbers that follow from a seed.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 = crate::disk::simulated::next_random(self.0);
        self.0 >> 11
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of these.
    fn of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }
}
