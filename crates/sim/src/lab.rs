//! A flock that a person plays with: what `skein flock-lab` shows.
//!
//! A session is a seed and a list of [`Actions`], nothing else; both together say everything that happened, so a
//! session can be rewound, shared and compared. [`Sessions`] answers a [`Question`] with a [`View`]: the state that the
//! actions lead to. It remembers a few sessions, so that doing one thing more costs only that; what was forgotten,
//! or rewound, is done again from the start.

mod actions;
mod ledger;
mod resident;
mod sessions;
mod view;
mod world;

pub use actions::{
    ACTIONS_MAX, Action, Actions, COUNT_MAX, MILLIS_MAX, PEERS_MAX, ParseError, PeerNo, SLOW_MILLIS_MAX,
    TEXT_BYTES_MAX,
};
pub use ledger::Kind;
pub use sessions::{LabError, Question, SEED_MAX, SESSIONS_MAX, Sessions};
pub use view::{BroadcastView, Flight, PeerView, Sent, View};
pub use world::{EVENTS_MAX, Impossible, World};

#[cfg(test)]
mod tests;
