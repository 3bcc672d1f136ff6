//! A replica of Quorate as a program.
fn main() {}
