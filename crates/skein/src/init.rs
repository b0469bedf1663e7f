//! `skein init`: makes a directory a server's own.

use crate::args::InitArgs;
use crate::home::{self, HomeError, Identity, Initialised, Lock};
use crate::say;
use crate::trouble::{Exit, Trouble};
use std::path::Path;

/// Runs `skein init`.
pub fn run(args: &InitArgs) -> Result<Exit, Trouble> {
    let what = || format!("cannot initialise {}", args.dir.display());
    let initialised = home::create_directory(&args.dir)
        .and_then(|()| Lock::take(&args.dir))
        .and_then(|lock| home::initialise(&args.dir, &lock, args.ids.host, args.ids.cell))
        .map_err(|e| trouble(what(), &args.dir, &e))?;
    say::out(tell(initialised, &args.dir));
    Ok(Exit::Done)
}

/// What was done, and the IDs.
pub fn tell(initialised: Initialised, dir: &Path) -> String {
    let Identity { host, cell, .. } = initialised.identity();
    let dir = dir.display();
    match initialised {
        Initialised::New(_) => format!("initialised {dir} for host {host} of cell {cell}"),
        Initialised::Already(_) => {
            format!("{dir} was initialised already, for host {host} of cell {cell}; nothing changed")
        }
    }
}

/// Turns what is wrong with a directory into what to do about it.
pub fn trouble(what: String, dir: &Path, error: &HomeError) -> Trouble {
    let dir = dir.display();
    let (exit, next) = match error {
        HomeError::NotADirectory { .. } | HomeError::NotInitialised { .. } => (
            Exit::WrongDirectory,
            format!("skein init {dir}, or skein serve --init {dir} to initialise and serve at once"),
        ),
        HomeError::Foreign { .. } => {
            (Exit::WrongDirectory, "name a directory that is empty or missing".to_owned())
        }
        HomeError::OtherIds { .. } => (
            Exit::WrongDirectory,
            "leave --host and --cell away to use it as it is, or name another directory".to_owned(),
        ),
        HomeError::InUse { holder, .. } => (
            Exit::InUse,
            match holder {
                Some(pid) => format!("stop it (kill {pid}), or name another directory"),
                None => "wait for it to end, or name another directory".to_owned(),
            },
        ),
        HomeError::NewerFormat { .. } => {
            (Exit::WrongDirectory, "use the release that wrote it, or a later one".to_owned())
        }
        HomeError::Damaged { .. } => (
            Exit::Damaged,
            "restore the file from a backup; it holds nothing but the two IDs and the date".to_owned(),
        ),
        HomeError::Io { .. } => {
            (Exit::Failed, "look at the rights and the free space of the directory".to_owned())
        }
    };
    Trouble::new(exit, what).because_of(error).next(next)
}
