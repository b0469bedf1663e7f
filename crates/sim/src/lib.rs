//! Simulation from a seed: whole flocks of peers on a network and a clock that are data.
#![forbid(unsafe_code)]
