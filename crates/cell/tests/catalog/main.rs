//! Catalogs of several peers in one process, over a network and disks that misbehave on request. Time is the runtime's and stands
//! still while anybody has something to do, so that the tests take no longer than the work.
#![allow(clippy::unwrap_used)]

mod founding;
mod keys;
mod members;
mod world;
