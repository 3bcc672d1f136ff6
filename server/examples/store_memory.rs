//! How far the store's estimate of its memory is from what the process takes.
//!
//! ```text
//! cargo run --release -p quorate-server --example store_memory
//! ```
//!
//! Prints, for each data set, the estimate, the growth of the process's resident memory, and their ratio. Each
//! data set is measured in a process of its own.

use std::process::{Command, ExitCode};

use quorate_protocol::request::{Mutation, Write};
use quorate_server::store::Store;

/// Name, keys, bytes of each key, bytes of each value, whether keys come in order.
const SETS: [(&str, u64, usize, usize, bool); 7] = [
    ("1 M keys of 16 B, values of 100 B", 1_000_000, 16, 100, false),
    ("the same, keys in order", 1_000_000, 16, 100, true),
    ("900 k keys of 16 B, values of 100 B", 900_000, 16, 100, false),
    ("100 k keys of 16 B, values of 4 KiB", 100_000, 16, 4096, false),
    ("1 M keys of 8 B, values of 8 B", 1_000_000, 8, 8, false),
    ("1 M keys of 40 B, values of 100 B", 1_000_000, 40, 100, false),
    ("300 keys of 16 B, values of 1 MiB", 300, 16, 1 << 20, false),
];

fn main() -> ExitCode {
    match std::env::args().nth(1) {
        Some(at) => measure(at.parse().expect("the number of a data set")),
        None => {
            println!("{:40} {:>14} {:>14} {:>6}", "data set", "estimate", "resident", "ratio");
            for at in 0..SETS.len() {
                let this = std::env::current_exe().expect("a running program has a file");
                let status = Command::new(this).arg(at.to_string()).status();
                if !status.is_ok_and(|status| status.success()) {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(at: usize) {
    let (name, keys, key_bytes, value_bytes, in_order) = SETS[at];
    let value = vec![7; value_bytes];
    let before = resident_bytes();
    let mut store = Store::default();
    for index in 0..keys {
        // An odd factor, so that every key comes once.
        let number = if in_order { index } else { index.wrapping_mul(0x9E37_79B9_7F4A_7C15) };
        let mut key = number.to_be_bytes().to_vec();
        key.resize(key_bytes, 0);
        store.apply(index + 1, &Write::One(Mutation::Set { key: &key, value: &value }));
    }
    let (estimate, resident) = (store.memory_bytes(), resident_bytes() - before);
    println!("{name:40} {estimate:14} {resident:14} {:6.3}", estimate as f64 / resident as f64);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}
