//! Filters and questions as people write them.
//!
//! ```text
//! question  = aggregate ["where" filter]
//! aggregate = "count" | "list" [n] | "sum" key | "range" key | "histogram" key "by" number {"," number}
//!           | "top" n key | "bottom" n key | "trends" n key
//! filter    = and {"or" and}
//! and       = unary {"and" unary}
//! unary     = "not" unary | "(" filter ")" | "all" | "none" | "exists" key | key compare operand
//! compare   = "<" "<=" "=" "==" "!=" ">=" ">" for numbers, "=" "==" "!=" "^=" (begins with) for texts
//! operand   = number [unit] | text in double quotes, with \" and \\ | bare word
//! unit      = "B" "KB" "MB" "GB" "TB" "KiB" "MiB" "GiB" "TiB"
//! ```
//! A key is a bare word or in double quotes. `!=` on a text is `exists` and `not =`.

use super::aggregate::{Aggregate, End};
use super::filter::{Compare, DEPTH_MAX, Filter};
use super::value::Number;
use std::fmt;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct ParseError {
    /// Where it went wrong, in bytes.
    pub at: usize,
    /// What was expected there, or what is not allowed.
    pub what: &'static str,
}

const RESERVED: [&str; 7] = ["and", "or", "not", "exists", "all", "none", "where"];

const UNITS: [(&str, i64); 9] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '-' | '+' | '%' | '@')
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    const SIGNS: [&str; 11] = ["<=", ">=", "==", "!=", "^=", "<", ">", "=", "(", ")", ","];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push((at, Token::Sign(sign)));
            at += sign.len();
        } else if first == '"' {
            let (mut quoted, mut escaped, mut end) = (String::new(), false, None);
            for (offset, c) in rest.char_indices().skip(1) {
                match c {
                    '"' if !escaped => {
                        end = Some(offset + 1);
                        break;
                    }
                    '\\' if !escaped => escaped = true,
                    _ => {
                        quoted.push(c);
                        escaped = false;
                    }
                }
            }
            let end = end.ok_or(ParseError { at, what: "the quotes are not closed" })?;
            tokens.push((at, Token::Quoted(quoted)));
            at += end;
        } else {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(ParseError { at, what: "this character belongs in double quotes" });
            }
            tokens.push((at, Token::Word(rest[..end].to_owned())));
            at += end;
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Self, ParseError> {
        Ok(Self { tokens: tokens(text)?, next: 0, end: text.len() })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn error<T>(&self, what: &'static str) -> Result<T, ParseError> {
        let at = self.tokens.get(self.next).map_or(self.end, |(at, _)| *at);
        Err(ParseError { at, what })
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        self.next += usize::from(found);
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn key(&mut self) -> Result<String, ParseError> {
        let key = match self.peek() {
            Some(Token::Quoted(key)) => key.clone(),
            Some(Token::Word(key)) if !RESERVED.contains(&key.to_lowercase().as_str()) => key.clone(),
            _ => return self.error("the key of a fact is expected"),
        };
        self.next += 1;
        Ok(key)
    }

    fn number(&mut self) -> Option<Number> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        let digits = word.trim_start_matches(['+', '-']);
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        // "10GB" as well as "10 GB"; the "e" of an exponent begins no unit.
        let cut = word.rfind(|c: char| c.is_ascii_digit() || c == '.').map_or(0, |last| last + 1);
        let (number, glued) = word.split_at(cut);
        let unit_of = |unit: &str| {
            let unit = unit.to_ascii_lowercase();
            UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size)
        };
        let mut used = 1;
        let unit = if glued.is_empty() {
            match self.tokens.get(self.next + 1) {
                Some((_, Token::Word(next))) => unit_of(next).inspect(|_| used = 2).unwrap_or(1),
                _ => 1,
            }
        } else {
            unit_of(glued)?
        };
        let whole = number.parse::<i64>().ok().and_then(|whole| whole.checked_mul(unit)).map(Number::Int);
        let number = whole.or_else(|| Number::float(number.parse::<f64>().ok()? * unit as f64))?;
        self.next += used;
        Some(number)
    }

    fn size(&mut self) -> Option<u16> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        let size = word.parse().ok()?;
        self.next += 1;
        Some(size)
    }

    fn filter(&mut self, depth: usize) -> Result<Filter, ParseError> {
        self.list(depth, "or", Filter::Or, |parser, depth| {
            parser.list(depth, "and", Filter::And, Self::unary)
        })
    }

    fn list(
        &mut self,
        depth: usize,
        word: &str,
        all: fn(Vec<Filter>) -> Filter,
        mut each: impl FnMut(&mut Self, usize) -> Result<Filter, ParseError>,
    ) -> Result<Filter, ParseError> {
        let first = each(self, depth)?;
        let mut filters = vec![first];
        while self.take_word(word) {
            filters.push(each(self, depth)?);
        }
        Ok(if filters.len() == 1 { filters.remove(0) } else { all(filters) })
    }

    fn unary(&mut self, depth: usize) -> Result<Filter, ParseError> {
        // Brackets that end up as nothing count as well, or a text could nest without end.
        if depth >= 2 * DEPTH_MAX {
            return self.error("the filter is nested too deep");
        }
        if self.take_word("not") {
            return Ok(Filter::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.take_sign("(") {
            let filter = self.filter(depth + 1)?;
            return if self.take_sign(")") { Ok(filter) } else { self.error("`)` is expected") };
        }
        if self.take_word("all") {
            return Ok(Filter::All);
        }
        if self.take_word("none") {
            return Ok(Filter::Or(Vec::new()));
        }
        if self.take_word("exists") {
            return Ok(Filter::Exists { key: self.key()? });
        }
        let key = self.key()?;
        if self.take_sign("^=") {
            return Ok(Filter::Prefix { key, with: self.text()? });
        }
        let sign = match self.peek() {
            Some(Token::Sign("==")) => Some(Compare::Equal),
            Some(Token::Sign(sign)) => {
                Compare::ALL.iter().find(|(_, name)| name == sign).map(|(compare, _)| *compare)
            }
            _ => None,
        };
        let Some(compare) = sign else {
            return self.error("one of < <= = != >= > ^= is expected");
        };
        self.next += 1;
        if let Some(with) = self.number() {
            return Ok(Filter::Number { key, compare, with });
        }
        match compare {
            Compare::Equal => Ok(Filter::Text { key, with: self.text()? }),
            Compare::Unequal => {
                let equal = Filter::Text { key: key.clone(), with: self.text()? };
                Ok(Filter::And(vec![Filter::Exists { key }, Filter::Not(Box::new(equal))]))
            }
            _ => self.error("a number is expected"),
        }
    }

    fn text(&mut self) -> Result<String, ParseError> {
        let text = match self.peek() {
            Some(Token::Quoted(text) | Token::Word(text)) => text.clone(),
            _ => return self.error("a text is expected"),
        };
        self.next += 1;
        Ok(text)
    }

    fn aggregate(&mut self) -> Result<Aggregate, ParseError> {
        if self.take_word("count") {
            return Ok(Aggregate::Count);
        }
        if self.take_word("list") {
            return Ok(Aggregate::List { listed: self.size().unwrap_or(100) });
        }
        if self.take_word("sum") {
            return Ok(Aggregate::Sum { key: self.key()? });
        }
        if self.take_word("range") {
            return Ok(Aggregate::Range { key: self.key()? });
        }
        if self.take_word("histogram") {
            let key = self.key()?;
            let mut bounds = Vec::new();
            while bounds.is_empty() && self.take_word("by") || !bounds.is_empty() && self.take_sign(",") {
                match self.number() {
                    Some(bound) => bounds.push(bound),
                    None => return self.error("a number is expected"),
                }
            }
            return Ok(Aggregate::Histogram { key, bounds });
        }
        for (word, end) in [("top", End::Largest), ("bottom", End::Smallest)] {
            if self.take_word(word) {
                let Some(k) = self.size() else { return self.error("how many?") };
                return Ok(Aggregate::TopPeers { key: self.key()?, k, end });
            }
        }
        if self.take_word("trends") {
            let Some(k) = self.size() else { return self.error("how many?") };
            let kept = k.saturating_mul(8).min(super::aggregate::KEPT_MAX);
            return Ok(Aggregate::TopLabels { key: self.key()?, k, kept });
        }
        self.error("one of count, list, sum, range, histogram, top, bottom, trends is expected")
    }

    fn end<T>(&self, parsed: T, fault: Option<&'static str>) -> Result<T, ParseError> {
        match fault {
            _ if self.next < self.tokens.len() => self.error("this is one word too many"),
            Some(what) => Err(ParseError { at: 0, what }),
            None => Ok(parsed),
        }
    }
}

impl Filter {
    /// Reads a filter such as `disk.free >= 10 GB and (zone = north or not exists zone)`; see the grammar at the top of `parse.rs`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser::new(text)?;
        let filter = parser.filter(0)?;
        let fault = filter.fault();
        parser.end(filter, fault)
    }
}

impl Aggregate {
    /// Reads an aggregate and its filter, such as `top 3 disk.free where zone = north`; see the grammar at the top of `parse.rs`.
    pub fn parse_question(text: &str) -> Result<(Self, Filter), ParseError> {
        let mut parser = Parser::new(text)?;
        let aggregate = parser.aggregate()?;
        let filter = if parser.take_word("where") { parser.filter(0)? } else { Filter::All };
        let fault = aggregate.fault().or_else(|| filter.fault());
        parser.end((aggregate, filter), fault)
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

struct Key<'a>(&'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = !self.0.is_empty() && self.0.chars().all(is_word);
        if bare && !RESERVED.contains(&self.0.to_lowercase().as_str()) {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn bracketed(filter: &Filter) -> bool {
            match filter {
                Filter::And(all) | Filter::Or(all) => all.len() > 1 || all.first().is_some_and(bracketed),
                _ => false,
            }
        }
        let one = |filter: &Filter, f: &mut fmt::Formatter<'_>| {
            if bracketed(filter) { write!(f, "({filter})") } else { filter.fmt(f) }
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Exists { key } => write!(f, "exists {}", Key(key)),
            Self::Number { key, compare, with } => write!(f, "{} {compare} {with}", Key(key)),
            Self::Text { key, with } => write!(f, "{} = {}", Key(key), Quoted(with)),
            Self::Prefix { key, with } => write!(f, "{} ^= {}", Key(key), Quoted(with)),
            Self::Not(filter) => {
                f.write_str("not ")?;
                one(filter, f)
            }
            Self::And(filters) | Self::Or(filters) => {
                let (word, none) = match self {
                    Self::And(_) => (" and ", "all"),
                    _ => (" or ", "none"),
                };
                let Some((first, others)) = filters.split_first() else { return f.write_str(none) };
                if others.is_empty() {
                    return first.fmt(f);
                }
                one(first, f)?;
                for filter in others {
                    f.write_str(word)?;
                    one(filter, f)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::filter::tests::filters;
    use crate::query::value::{Value, tests::values};
    use proptest::prelude::*;

    fn number(key: &str, compare: Compare, with: i64) -> Filter {
        Filter::Number { key: key.into(), compare, with: Number::Int(with) }
    }

    #[test]
    fn a_filter_reads_as_people_mean_it() {
        let ten = number("disk.free", Compare::AtLeast, 10_000_000_000);
        for text in ["disk.free >= 10 GB", "disk.free>=10GB", "\"disk.free\" >= 10000000000"] {
            assert_eq!(Filter::parse(text).as_ref(), Ok(&ten), "{text}");
        }
        let text = |key: &str, with: &str| Filter::Text { key: key.into(), with: with.into() };
        assert_eq!(Filter::parse("zone = north"), Ok(text("zone", "north")));
        assert_eq!(Filter::parse(r#"zone == "no\"rth\\""#), Ok(text("zone", "no\"rth\\")));
        let half = Filter::Number { key: "load".into(), compare: Compare::Less, with: Number::Float(0.5) };
        let both =
            Filter::Or(vec![Filter::And(vec![ten, half.clone()]), Filter::Not(Box::new(text("a", "b")))]);
        assert_eq!(Filter::parse("disk.free >= 10GB and load < 0.5 OR not a = b"), Ok(both));
        assert_eq!(Filter::parse("((load < 5e-1))"), Ok(half));
        assert_eq!(Filter::parse("x > -3 KiB"), Ok(number("x", Compare::Greater, -3072)));
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        for (text, at) in [
            ("", 0),
            ("load <", 6),
            ("load < high", 7),
            ("load < 3 GB GB", 12),
            ("(a = b", 6),
            ("a = \"b", 4),
            ("a ? b", 2),
            ("and = 3", 0),
        ] {
            assert_eq!(Filter::parse(text).map_err(|error| error.at), Err(at), "{text}");
        }
        assert!(Filter::parse(&"(".repeat(100_000)).is_err());
        assert!(Filter::parse(&"not ".repeat(100_000)).is_err());
        assert!(Filter::parse(&vec!["exists a"; 100].join(" or ")).is_err());
    }

    #[test]
    fn a_question_reads_as_people_mean_it() {
        let aggregate = |text| Aggregate::parse_question(text).map(|(aggregate, _)| aggregate);
        let key = || "disk.free".to_owned();
        assert_eq!(aggregate("count where load < 1"), Ok(Aggregate::Count));
        assert_eq!(aggregate("list 5"), Ok(Aggregate::List { listed: 5 }));
        assert_eq!(aggregate("list where all"), Ok(Aggregate::List { listed: 100 }));
        assert_eq!(aggregate("sum disk.free"), Ok(Aggregate::Sum { key: key() }));
        let bounds = vec![Number::Int(1_000_000_000), Number::Float(2.5e9)];
        let histogram = Aggregate::Histogram { key: key(), bounds };
        assert_eq!(aggregate("histogram disk.free by 1 GB, 2.5 GB"), Ok(histogram));
        assert_eq!(
            aggregate("bottom 3 disk.free"),
            Ok(Aggregate::TopPeers { key: key(), k: 3, end: End::Smallest })
        );
        assert_eq!(
            aggregate("trends 10 topics"),
            Ok(Aggregate::TopLabels { key: "topics".into(), k: 10, kept: 80 })
        );
        for text in ["", "histogram disk.free", "top disk.free", "top 0 disk.free", "count of", "sum"] {
            assert!(aggregate(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_filter_reads_as_one_that_says_the_same(filter in filters(), a in values(), b in values()) {
            let text = filter.to_string();
            let again = Filter::parse(&text);
            prop_assert!(again.is_ok(), "{} gives {:?}", text, again);
            let again = again.unwrap();
            prop_assert_eq!(again.to_string(), text);
            let facts = |key: &str| -> Option<Value> {
                match key { "a" => Some(a.clone()), "b" => Some(b.clone()), _ => None }
            };
            prop_assert_eq!(again.holds(&facts), filter.holds(&facts));
        }

        #[test]
        fn any_text_is_a_filter_or_an_error(text in "[ -~é\"()]{0,40}") {
            let _ = Filter::parse(&text);
            let _ = Aggregate::parse_question(&text);
        }
    }
}
