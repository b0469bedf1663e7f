//! `skein serve`: waits for the cell and the server.
use crate::args::ServeArgs;
use crate::trouble::{Exit, Trouble};

/// Says that there is no server yet.
pub fn run(_args: ServeArgs) -> Result<Exit, Trouble> {
    Err(Trouble::new(Exit::Failed, "cannot serve").because("the server is not part of this build yet"))
}
