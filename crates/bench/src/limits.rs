//! What the machine allows, measured with the same clients and clock as the databases: an answer that takes
//! no thought, an echo, and a synced append.

pub mod echo;
pub mod fsync;
pub mod hello;
