//! Skein, the binary: arguments, configuration, a directory of one's own, and exit codes. The database itself is
//! in the `cell` crate and those below it, its HTTP face in `server`.
//!
//! Read [`args`] for what can be asked, then [`serve`] for a server's life from lock to last request,
//! [`import`] and [`export`] for rows in and out, [`status`], [`atlas`] and [`peers`] for a whole cell, [`flock_lab`] for the page on gossip, and [`trouble`] for what is said
//! when something fails.
//!
//! The allocator is mimalloc: requests cost the server about an eighth less processor time than with the system's
//! (`docs/BENCHMARKS.md`). jemalloc saves a little more, but needs make to build.
#![forbid(unsafe_code)]

mod args;
mod atlas;
mod cert;
mod client;
mod config;
mod doctor;
mod export;
mod flock_lab;
mod home;
mod import;
mod init;
mod memory;
mod peers;
mod plan;
mod say;
mod serve;
mod signals;
mod status;
mod tables;
mod trouble;
mod units;

use args::{Cli, Command};
use clap::Parser as _;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use trouble::{Exit, Trouble};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse_from(args::modern_spelling(std::env::args_os()));
    let outcome = match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(*args),
        Command::Import(args) => small_runtime().and_then(|runtime| {
            let outcome = runtime.block_on(import::run(args));
            // A read of standard input that nothing will ever end must not keep us.
            runtime.shutdown_background();
            outcome
        }),
        Command::Export(args) => small_runtime().and_then(|runtime| runtime.block_on(export::run(args))),
        Command::Status(args) => small_runtime().and_then(|runtime| runtime.block_on(status::run(args))),
        Command::Atlas(args) => small_runtime().and_then(|runtime| runtime.block_on(atlas::run(args))),
        Command::Drain(args) => small_runtime().and_then(|runtime| runtime.block_on(peers::drain(args))),
        Command::Rejoin(args) => small_runtime().and_then(|runtime| runtime.block_on(peers::rejoin(args))),
        Command::Forget(args) => small_runtime().and_then(|runtime| runtime.block_on(peers::forget(args))),
        Command::Cert(args) => cert::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => small_runtime().and_then(|runtime| {
            runtime
                .block_on(skein_bench::run(args))
                .map(|()| Exit::Done)
                .map_err(|e| Trouble::new(Exit::Failed, "the benchmark stopped").because_of(&e))
        }),
        Command::FlockLab(args) => small_runtime().and_then(|runtime| {
            let outcome = runtime.block_on(flock_lab::run(args));
            // A simulation that is still at it has nobody left to tell.
            runtime.shutdown_background();
            outcome
        }),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(trouble) => {
            say::err(trouble.render().trim_end());
            trouble.exit().into()
        }
    }
}

/// A runtime for the commands that only talk to a server: one thread is enough to keep it busy.
fn small_runtime() -> Result<Runtime, Trouble> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Trouble::new(Exit::Failed, "cannot start").because("start a runtime").because_of(&e))
}
