//! What the binary says when something goes wrong, and with which code it exits.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::process::ExitCode;

/// How a command ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Something failed while running: the network, the disk, a server's answer.
    Failed,
    /// The configuration is wrong.
    Config,
    /// The directory is in use by another process.
    InUse,
    /// Stored data is damaged.
    Damaged,
    /// Done, but some lines of the input were bad and left out.
    BadLines,
    /// The directory is not what the command needs: not initialised, another's, or foreign.
    WrongDirectory,
    /// Ended by SIGINT or a closed pipe before it was done.
    Interrupted,
    /// Ended by a second SIGTERM, without waiting for requests under way.
    Terminated,
}

/// The table of exit codes that `--help` prints.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: the network, the disk, or a server's answer
  2    wrong usage: unknown or malformed flags
  3    wrong configuration: skein.toml, or settings that do not fit together
  4    the directory is in use by another process
  5    stored data is damaged
  6    import: done, but some input lines were bad and left out
  7    the directory is not initialised, belongs to other IDs, or is not ours
  130  interrupted (SIGINT, or the reader of our output went away)
  143  ended by a second SIGTERM without waiting for requests under way";

impl Exit {
    /// The process's exit code; documented in [`EXIT_CODES`]. clap itself exits with 2 on wrong usage.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Config => 3,
            Exit::InUse => 4,
            Exit::Damaged => 5,
            Exit::BadLines => 6,
            Exit::WrongDirectory => 7,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command could not do what it was asked: what happened, because of what, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    exit: Exit,
    what: String,
    because: Vec<String>,
    next: Option<String>,
}

impl Trouble {
    /// Trouble that ends the process with `exit`; `what` is one clause such as `cannot open DIR`.
    pub fn new(exit: Exit, what: impl Into<String>) -> Trouble {
        Trouble { exit, what: what.into(), because: Vec::new(), next: None }
    }

    /// Adds a reason, one deeper than those before it.
    pub fn because(mut self, reason: impl fmt::Display) -> Trouble {
        self.because.push(reason.to_string());
        self
    }

    /// Adds an error and everything below it, leaving out a cause whose text the one above already ends with.
    pub fn because_of(mut self, error: &(dyn Error + 'static)) -> Trouble {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if !self.because.last().is_some_and(|above| above.ends_with(&text)) {
                self.because.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Says what to do about it.
    pub fn next(mut self, advice: impl Into<String>) -> Trouble {
        self.next = Some(advice.into());
        self
    }

    /// The code to exit with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The trouble as text for a terminal: several lines, each ended.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "skein: {}", self.what);
        for (depth, reason) in self.because.iter().enumerate() {
            let label = if depth == 0 { "because:" } else { "        " };
            let _ = writeln!(text, "  {label} {}", indented(reason));
        }
        if let Some(next) = &self.next {
            let _ = writeln!(text, "  next:    {}", indented(next));
        }
        text
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n           ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("open the log")]
    struct Outer(#[from] io::Error);

    #[test]
    fn trouble_tells_what_happened_because_of_what_and_what_to_do() {
        let cause = Outer(io::Error::other("no such disk"));
        let trouble = Trouble::new(Exit::Failed, "cannot serve /data").because_of(&cause).next("plug it in");
        assert_eq!(
            trouble.render(),
            "skein: cannot serve /data\n  because: open the log\n           no such disk\n  next:    plug it in\n"
        );
    }

    #[test]
    fn a_cause_that_its_parent_already_quotes_is_not_said_twice() {
        let inner = io::Error::other("no such disk");
        let outer = io::Error::other(format!("read /data: {inner}"));
        let trouble = Trouble::new(Exit::Failed, "stopped").because_of(&outer).because_of(&inner);
        assert_eq!(trouble.render(), "skein: stopped\n  because: read /data: no such disk\n");
    }

    #[test]
    fn every_exit_code_is_in_the_printed_table() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Config,
            Exit::InUse,
            Exit::Damaged,
            Exit::BadLines,
            Exit::WrongDirectory,
            Exit::Interrupted,
            Exit::Terminated,
        ];
        for exit in all {
            let line = format!("\n  {:<4} ", exit.code());
            assert!(EXIT_CODES.contains(&line), "{exit:?}");
        }
    }
}
