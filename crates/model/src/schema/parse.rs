//! From schema text to tables: a reader of words and marks, and one function for each rule of the grammar.
//!
//! After a fault the reader goes on at the next field or clause, so that one run finds them all. Every step moves
//! forward in the text, and nothing is read twice.

use super::error::{PROBLEMS_MAX, locate};
use super::{RESERVED_NAMES, Retain, SchemaError, SchemaFault, TableSchema};
use crate::TableId;
use crate::limits::SCHEMA_BYTES_MAX;
use crate::number::{NumberError, parse_u64};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

pub(super) fn parse(text: &str) -> Result<HashMap<String, TableSchema>, SchemaError> {
    if SCHEMA_BYTES_MAX < text.len() {
        return Err(SchemaError::TooLong { bytes: text.len() });
    }
    let mut parser = Parser::new(text);
    parser.advance();
    parser.clauses();
    let Parser { tables, faults, more, .. } = parser;
    if faults.is_empty() {
        return Ok(tables);
    }
    Err(SchemaError::Invalid { problems: locate(text, faults), more })
}

/// One piece of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Letters, digits, `_` and `$`: a keyword, name, number or duration.
    Word,
    /// A text in quotes.
    Quoted,
    /// One of `{`, `}`, `:` and `;`.
    Mark(u8),
    /// A character that no rule wants, or a quote without end.
    Stray,
    /// The end of the text.
    End,
}

/// A field of a table: not there yet, there but faulty, or there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field<T> {
    Absent,
    Faulty,
    Given(T),
}

struct Parser<'a> {
    text: &'a str,
    /// Whether the text has no line break, perhaps because a tool took them all out.
    one_line: bool,
    token: Token,
    /// Where `token` stands.
    span: Range<usize>,
    /// Where the token before it ended.
    last_end: usize,
    tables: HashMap<String, TableSchema>,
    names: HashSet<&'a str>,
    ids: HashSet<TableId>,
    faults: Vec<(usize, SchemaFault)>,
    /// Faults beyond those kept.
    more: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser {
            text,
            one_line: !text.contains('\n'),
            token: Token::End,
            span: 0..0,
            last_end: 0,
            tables: HashMap::new(),
            names: HashSet::new(),
            ids: HashSet::new(),
            faults: Vec::new(),
            more: 0,
        }
    }

    /// Notes a fault; of several at one place only the first, which the others follow from.
    fn fault(&mut self, offset: usize, fault: SchemaFault) {
        if self.faults.last().is_some_and(|(last, _)| *last == offset) {
            return;
        }
        if self.faults.len() < PROBLEMS_MAX {
            self.faults.push((offset, fault));
        } else {
            self.more += 1;
        }
    }

    /// Where to point when `token` is not what it should be.
    fn here(&self) -> usize {
        // Past the last token there may be many blank lines, and none of them is the one to look at.
        if self.token == Token::End { self.last_end } else { self.span.start }
    }

    fn word(&self) -> &'a str {
        &self.text[self.span.clone()]
    }

    fn is_word(&self, word: &str) -> bool {
        self.token == Token::Word && self.word() == word
    }

    fn begins_clause(&self) -> bool {
        self.is_word("table") || self.is_word("resource")
    }

    // Pieces of the text.

    /// Goes on to the next token.
    fn advance(&mut self) {
        let bytes = self.text.as_bytes();
        self.last_end = self.span.end;
        let start = self.skip_blanks(self.span.end);
        let (token, end) = match bytes.get(start) {
            None => (Token::End, start),
            Some(mark @ (b'{' | b'}' | b':' | b';')) => (Token::Mark(*mark), start + 1),
            Some(b'"') => match quoted_end(bytes, start) {
                Ok(end) => (Token::Quoted, end),
                Err(end) => {
                    self.fault(start, SchemaFault::Unclosed);
                    (Token::Stray, end)
                }
            },
            Some(byte) if is_word_byte(*byte) => {
                let length = bytes[start..].iter().take_while(|b| is_word_byte(**b)).count();
                (Token::Word, start + length)
            }
            Some(_) => {
                let length = self.text[start..].chars().next().map_or(1, char::len_utf8);
                (Token::Stray, start + length)
            }
        };
        self.token = token;
        self.span = start..end;
    }

    /// The first place from `at` on that is neither white space nor in a comment.
    fn skip_blanks(&mut self, mut at: usize) -> usize {
        let bytes = self.text.as_bytes();
        loop {
            let rest = &bytes[at..];
            if rest.starts_with(b"#") || rest.starts_with(b"//") {
                let length = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                // Taken as it stands, such a text would silently drop the tables after the comment.
                if self.one_line && rest[..length].contains(&b'{') {
                    self.fault(at, SchemaFault::HiddenDefinition);
                }
                at += length;
            } else if rest.first().is_some_and(|b| b.is_ascii_whitespace() || *b == 0x0b) {
                at += 1;
            } else {
                return at;
            }
        }
    }

    // Rules of the grammar.

    fn clauses(&mut self) {
        while self.token != Token::End {
            if self.is_word("table") {
                self.table();
            } else if self.is_word("resource") {
                self.resource();
            } else {
                self.fault(self.here(), SchemaFault::Clause);
                self.skip_clause();
            }
        }
    }

    /// Skips to where the next clause may begin.
    fn skip_clause(&mut self) {
        let mut open = 0usize;
        while self.token != Token::End && !self.begins_clause() {
            let token = self.token;
            self.advance();
            match token {
                Token::Mark(b'{') => open += 1,
                Token::Mark(b'}') if 1 < open => open -= 1,
                Token::Mark(b'}') => {
                    if self.token == Token::Mark(b';') {
                        self.advance();
                    }
                    return;
                }
                // Before a closing brace it ends a field of the table whose opening brace is missing.
                Token::Mark(b';') if open == 0 && self.token != Token::Mark(b'}') => return,
                _ => {}
            }
        }
    }

    fn resource(&mut self) {
        self.advance();
        if self.token != Token::Quoted {
            self.fault(self.here(), SchemaFault::Resource);
            return self.skip_clause();
        }
        self.advance();
        if self.token != Token::Mark(b';') {
            self.fault(self.here(), SchemaFault::Resource);
            return self.skip_clause();
        }
        self.advance();
    }

    fn table(&mut self) {
        let start = self.span.start;
        self.advance();
        if self.token != Token::Word || self.word().starts_with(|c: char| c.is_ascii_digit()) {
            self.fault(self.here(), SchemaFault::Name);
            return self.skip_clause();
        }
        let name = self.word();
        if RESERVED_NAMES.contains(&name) {
            self.fault(self.here(), SchemaFault::Reserved(name.to_owned()));
        }
        if !self.names.insert(name) {
            self.fault(self.here(), SchemaFault::DuplicateName(name.to_owned()));
        }
        self.advance();
        if self.token != Token::Mark(b'{') {
            self.fault(start, SchemaFault::Clause);
            return self.skip_clause();
        }
        self.advance();
        let mut id = Field::Absent;
        let mut retain = Field::Absent;
        while self.token != Token::Mark(b'}') {
            if self.token == Token::End || self.begins_clause() {
                return self.fault(start, SchemaFault::Clause);
            } else if self.is_word("id") {
                id = self.field("id", id, Self::id);
            } else if self.is_word("retain") {
                retain = self.field("retain", retain, Self::retain);
            } else {
                self.fault(self.here(), SchemaFault::Field);
                self.skip_field();
            }
        }
        if id == Field::Absent {
            self.fault(self.here(), SchemaFault::Id);
        }
        self.advance();
        if self.token == Token::Mark(b';') {
            self.advance();
        } else {
            self.fault(self.last_end, SchemaFault::Semicolon);
        }
        if let Field::Given(id) = id {
            let retain = if let Field::Given(retain) = retain { retain } else { Retain::default() };
            self.tables.insert(name.to_owned(), TableSchema { id, retain });
        }
    }

    /// One field by its rule, and the semicolon after it; `before` is what the table had of it already.
    fn field<T>(
        &mut self,
        name: &'static str,
        before: Field<T>,
        rule: fn(&mut Self) -> Result<T, (usize, SchemaFault)>,
    ) -> Field<T> {
        if !matches!(before, Field::Absent) {
            self.fault(self.here(), SchemaFault::DuplicateField(name));
        }
        self.advance();
        let read = rule(self).and_then(|value| match self.token {
            Token::Mark(b';') => Ok(value),
            _ => Err((self.here(), if name == "id" { SchemaFault::Id } else { SchemaFault::Retain })),
        });
        match read {
            Ok(value) => {
                self.advance();
                Field::Given(value)
            }
            Err((offset, fault)) => {
                self.fault(offset, fault);
                self.skip_field();
                Field::Faulty
            }
        }
    }

    /// Skips to where the next field may begin, or the table or the text ends.
    fn skip_field(&mut self) {
        while self.token != Token::End && self.token != Token::Mark(b'}') && !self.begins_clause() {
            let token = self.token;
            self.advance();
            if token == Token::Mark(b';') {
                return;
            }
        }
    }

    /// `: NUMBER`
    fn id(&mut self) -> Result<TableId, (usize, SchemaFault)> {
        if self.token != Token::Mark(b':') {
            return Err((self.here(), SchemaFault::Id));
        }
        self.advance();
        let here = self.here();
        if self.token != Token::Word || !self.word().starts_with(|c: char| c.is_ascii_digit()) {
            return Err((here, SchemaFault::Long));
        }
        let id = TableId(parse_u64(self.word()).map_err(|error| match error {
            NumberError::Empty | NumberError::Malformed => (here, SchemaFault::Number),
            NumberError::TooLarge => (here, SchemaFault::NumberTooLarge),
        })?);
        if !self.ids.insert(id) {
            self.fault(here, SchemaFault::DuplicateId(id));
        }
        self.advance();
        Ok(id)
    }

    /// `: DURATION`, or without the colon.
    fn retain(&mut self) -> Result<Retain, (usize, SchemaFault)> {
        if self.token == Token::Mark(b':') {
            self.advance();
        }
        let here = self.here();
        if self.token != Token::Word {
            return Err((here, SchemaFault::Retain));
        }
        let retain = match self.word() {
            "forever" => Retain::Forever,
            "yesterday" => Retain::SinceYesterday,
            duration => Retain::Micros(duration_micros(duration).map_err(|fault| (here, fault))?),
        };
        self.advance();
        Ok(retain)
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

/// Where the text in quotes that starts at `start` ends, its last quote included. A quote after a backslash does not
/// end it. One that has no end stops before the line break.
fn quoted_end(bytes: &[u8], start: usize) -> Result<usize, usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            None | Some(b'\n') => return Err(at),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if bytes.get(at + 1).is_some_and(|b| *b != b'\n') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// A whole number and its unit, such as `7d`, in microseconds.
fn duration_micros(text: &str) -> Result<u64, SchemaFault> {
    let seconds = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        Some(b'w') => 604_800,
        _ => return Err(SchemaFault::Duration),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SchemaFault::Duration);
    }
    let micros = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(seconds * 1_000_000));
    match micros {
        Some(0) => Err(SchemaFault::DurationZero),
        Some(micros) => Ok(micros),
        None => Err(SchemaFault::DurationTooLong),
    }
}
