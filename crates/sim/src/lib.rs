//! Simulation from a seed: whole flocks of peers on a network and a clock that are data.
//!
//! * [`wheel`]: what happens when; a hierarchy of timing wheels.
//! * [`network`]: how long a message takes, what is lost, who is cut off from whom.
//! * [`engine`]: peers, connections and messages in between, for any [`engine::Protocol`].
//! * [`graph`]: what can be said of an overlay: components, paths, the bound that no broadcast can beat.
#![forbid(unsafe_code)]

pub mod engine;
pub mod graph;
pub mod network;
pub mod wheel;

pub use engine::{Event, Io, Node, Protocol, Sim};
pub use network::{Latency, Network};
