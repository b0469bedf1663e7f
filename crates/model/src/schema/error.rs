//! What can be wrong with a schema text, and how it is shown to the person who wrote it.

use crate::TableId;
use crate::limits::SCHEMA_BYTES_MAX;
use std::fmt;

/// How many problems an error lists; a text with more is rarely a schema at all.
pub(super) const PROBLEMS_MAX: usize = 100;

/// How many characters before and after the problem are shown of a long line. Tools that strip line breaks make of
/// every schema one long line, and showing it whole for each problem would cost its square.
const CONTEXT_CHARS: usize = 80;

/// Why a schema text was refused. The schema before it stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is longer than [`SCHEMA_BYTES_MAX`].
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// The text breaks the grammar or contradicts itself.
    Invalid {
        /// What is wrong, by position in the text; at least one and at most a hundred.
        problems: Vec<SchemaProblem>,
        /// How many further problems there are.
        more: usize,
    },
}

impl std::error::Error for SchemaError {}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => {
                write!(f, "The schema has {bytes} bytes, and at most {SCHEMA_BYTES_MAX} are allowed.")
            }
            Self::Invalid { problems, more } => {
                problems.iter().try_for_each(|problem| write!(f, "{problem}\n\n"))?;
                if 0 < *more { write!(f, "There are {more} more problems.\n\n") } else { Ok(()) }
            }
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaProblem {
    /// What is wrong.
    pub fault: SchemaFault,
    /// The line, counted from one.
    pub line: usize,
    /// The line's text; of a long line the part around the problem, with `…` for the rest.
    pub excerpt: String,
    /// How many characters of `excerpt` come before the problem.
    pub caret: usize,
}

/// The fault and its line, the line's text, and a caret under the place.
impl fmt::Display for SchemaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A tab before the caret is as wide as the tab above it.
        let blank = |c: char| if c == '\t' { '\t' } else { ' ' };
        let indent: String = self.excerpt.chars().take(self.caret).map(blank).collect();
        write!(f, "{} at line {}\n{}\n{indent}^", self.fault, self.line, self.excerpt)
    }
}

/// What is wrong at one place of a schema text. The messages are worded so that "at line 7" can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaFault {
    /// Neither a table nor a resource, or a table without its braces.
    #[error("Bad definition of clause, expected\ntable <tablename> {{\n  Field1;Field2;..\n}};\nstarting")]
    Clause,
    /// What stands after `table` is not a name.
    #[error("Bad table name, expected ASCII letters, digits, _ and $, and no digit first, but found")]
    Name,
    /// What stands after `resource` is not a text in quotes and a semicolon.
    #[error("Resource improper, expected\nresource \"<regex>\" ;\nbut found")]
    Resource,
    /// A closing brace lacks its semicolon.
    #[error("Expected ; after }}")]
    Semicolon,
    /// A table has a field that we do not know.
    #[error("Unknown field, expected\nid : <long> ;\nor\nretain : <duration> ;\nbut found")]
    Field,
    /// A table has the same field twice.
    #[error("Duplicate field {0}")]
    DuplicateField(&'static str),
    /// The ID is missing, or lacks its colon or semicolon.
    #[error("Id field improper, expected\nid : <long> ;\nbut found")]
    Id,
    /// There is no number where the ID should be.
    #[error("Expected long")]
    Long,
    /// The ID begins with a digit and is not a number of the grammar.
    #[error(
        "This should be a valid octal (starting with 0), decimal number or hexadecimal number (starting with 0x)"
    )]
    Number,
    /// The ID needs more than 64 bits.
    #[error("This number does not fit in 64 bits")]
    NumberTooLarge,
    /// The retention is missing or lacks its semicolon.
    #[error("Retain field improper, expected\nretain : <duration> ;\nbut found")]
    Retain,
    /// The retention is not a duration.
    #[error("Expected forever, yesterday or an integer with a unit s, m, h, d or w such as 7d")]
    Duration,
    /// The retention is zero, and a scan could not even finish what it began.
    #[error("A table needs to retain at least 1s")]
    DurationZero,
    /// The retention is more microseconds than fit in 64 bits.
    #[error("This duration is too long, write forever instead")]
    DurationTooLong,
    /// Two tables have this name.
    #[error("Duplicate table name {0}")]
    DuplicateName(String),
    /// Two tables have this ID.
    #[error("Duplicate id {0}")]
    DuplicateId(TableId),
    /// The server uses the name as a path of its own.
    #[error("Reserved table name {0}, which the server needs for itself,")]
    Reserved(String),
    /// A text in quotes has no end on its line.
    #[error("Expected a closing quote for the text starting")]
    Unclosed,
    /// The whole text is one line, and a comment takes up the rest of it with a definition inside.
    #[error("Comment hides a definition (were the line breaks stripped? curl keeps them with --data-binary)")]
    HiddenDefinition,
}

/// Finds the lines of these faults, each given with its byte offset. One pass over the text.
pub(super) fn locate(text: &str, mut faults: Vec<(usize, SchemaFault)>) -> Vec<SchemaProblem> {
    faults.sort_by_key(|(offset, _)| *offset);
    let mut problems = Vec::with_capacity(faults.len());
    let mut faults = faults.into_iter().peekable();
    let mut start = 0;
    // The empty line at the end is for a fault at the very end of a text that ends with a line break.
    for (i, line) in text.split('\n').enumerate() {
        let end = start + line.len();
        while let Some((offset, fault)) = faults.next_if(|(offset, _)| *offset <= end) {
            let (excerpt, caret) = excerpt(line.strip_suffix('\r').unwrap_or(line), offset - start);
            problems.push(SchemaProblem { fault, line: i + 1, excerpt, caret });
        }
        start = end + 1;
    }
    problems
}

/// The part of a line around the byte at `at`, and how many characters of it come before that byte.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    let (before, after) = line.split_at_checked(at).unwrap_or((line, ""));
    let mut shown = String::new();
    let first = match before.char_indices().rev().nth(CONTEXT_CHARS) {
        None => 0,
        Some((i, left_out)) => {
            shown.push('…');
            i + left_out.len_utf8()
        }
    };
    shown.extend(before[first..].chars().map(printable));
    let caret = shown.chars().count();
    match after.char_indices().nth(CONTEXT_CHARS) {
        None => shown.extend(after.chars().map(printable)),
        Some((i, _)) => {
            shown.extend(after[..i].chars().map(printable));
            shown.push('…');
        }
    }
    (shown, caret)
}

/// Errors end up on terminals and in logs, so control characters do not pass.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}
