//! The `birkhoff` command.
fn main() {}
