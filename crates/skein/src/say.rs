//! Lines for people. That nobody reads them any more (a closed pipe, a full disk behind a redirection) is no reason
//! to stop, which is what `println!` would do.

use std::fmt::Display;
use std::io::Write as _;

/// One line, or several, on standard output.
pub fn out(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// So many of something: `1 cohort`, `2 cohorts`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// One line, or several, on standard error.
pub fn err(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
