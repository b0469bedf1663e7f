//! x
mod iroh;
fn main() {}
