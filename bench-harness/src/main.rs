//! The harness of Quorate as a program.
fn main() {}
