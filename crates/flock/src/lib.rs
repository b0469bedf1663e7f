//! The flock: how the peers of a cell find each other and tell each other small things, without IO.
//!
//! Every peer runs one [`Flock`]: a state machine that is told things ([`Input`]) and asks for things
//! ([`Effect`]). It owns no clock, no socket and no luck; the same inputs, times and random numbers give the
//! same bytes. Its parts, each its own small state machine:
//!
//! * [`membership`]: HyParView. A few symmetric active [`links`], a larger passive view, an address book.
//! * [`broadcast`]: Plumtree with a tree per origin over those links.
//! * [`facts`]: small versioned facts about each peer, and settings, kept equal by anti-entropy.
//! * [`health`]: who is suspected, by whom, and for how long.
//! * [`query`]: questions aggregated up the asker's tree.
//!
//! The transport below keeps connections, frames messages, and tells who is at the other end; see [`io`].
#![forbid(unsafe_code)]

pub mod addr;
pub mod broadcast;
pub mod facts;
pub mod flock;
pub mod health;
pub mod io;
pub mod links;
pub mod membership;
pub mod query;
pub mod time;
pub mod wire;

pub use addr::{Addr, Peer};
pub use flock::Flock;
pub use io::{Effect, Input, Outbox, Refused, Unreachable};
pub use links::{Link, LinkSet, Links};
pub use time::Time;
pub use wire::Frame;
