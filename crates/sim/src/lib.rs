//! Simulation from a seed: whole flocks of peers on a network and a clock that are data.
//!
//! * [`wheel`]: what happens when; a hierarchy of timing wheels.
//! * [`network`]: how long a message takes, what is lost, who is cut off from whom.
//! * [`engine`]: peers, connections and messages in between, for any [`engine::Protocol`].
//! * [`graph`]: what can be said of an overlay: components, paths, the bound that no broadcast can beat.
//! * [`subject`]: what a gossip protocol offers to be measured; [`flock_peer`]: ours.
//! * [`cluster`]: a whole flock under test, in the words of its tests.
//! * [`scenario`]: files that say what happens and what it should come to; [`run`] carries them out and
//!   [`measure`] names what is measured.
//! * [`engine_speed`]: how fast the engine is by itself.
//! * [`check`]: what clients saw, held against what a cell promises.
//! * [`lab`]: a flock that a person plays with, for `skein flock-lab`.
#![forbid(unsafe_code)]

#[cfg(feature = "cell")]
pub mod cell;
pub mod check;
pub mod cluster;
pub mod engine;
pub mod engine_speed;
pub mod flock_peer;
pub mod graph;
pub mod lab;
pub mod measure;
pub mod network;
pub mod run;
pub mod scenario;
pub mod subject;
pub mod wheel;

pub use cluster::Cluster;
pub use engine::{Death, Event, Io, Node, Protocol, Sim};
pub use flock_peer::{FlockPeer, World};
pub use graph::Graph;
pub use measure::Measure;
pub use network::{Latency, Network};
pub use scenario::Scenario;
pub use subject::{Class, Report, Subject};
