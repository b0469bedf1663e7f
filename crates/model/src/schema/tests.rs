use super::error::PROBLEMS_MAX;
use super::*;
use crate::limits::SCHEMA_BYTES_MAX;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;

fn schema(text: &str) -> Schema {
    Schema::parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The faults of a text and their lines.
fn faults(text: &str) -> Vec<(usize, SchemaFault)> {
    match Schema::parse(text) {
        Ok(_) => Vec::new(),
        Err(SchemaError::Invalid { problems, more: 0 }) => {
            problems.into_iter().map(|problem| (problem.line, problem.fault)).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// The retention of the one table that has this field.
fn retain(field: &str) -> Result<Retain, Vec<SchemaFault>> {
    let text = format!("table t {{ id : 1; {field} }};");
    match faults(&text) {
        none if none.is_empty() => Ok(schema(&text).retain(TableId(1))),
        some => Err(some.into_iter().map(|(_, fault)| fault).collect()),
    }
}

// What is accepted.

#[test]
fn an_empty_text_is_the_empty_schema() {
    assert_eq!(schema(""), Schema::default());
    assert_eq!(schema(" \t\r\n").tables().count(), 0);
}

#[test]
fn tables_are_found_by_name_and_retentions_by_id() {
    let text = "table fruit { id : 0x1; };\ntable $a_9 { id: 010; retain: 7d; };";
    let schema = schema(text);
    assert_eq!(schema.text(), text);
    assert_eq!(schema.table("fruit"), Some(&TableSchema { id: TableId(1), retain: Retain::SinceYesterday }));
    let week = Retain::Micros(7 * 86_400 * SECOND);
    assert_eq!(schema.table("$a_9"), Some(&TableSchema { id: TableId(8), retain: week }));
    assert_eq!(schema.table("Fruit"), None);
    assert_eq!(schema.retain(TableId(8)), week);
    assert_eq!(schema.retain(TableId(2)), Retain::SinceYesterday);
    assert_eq!(schema.tables().map(|(name, _)| name).collect::<Vec<_>>(), ["$a_9", "fruit"]);
}

#[test]
fn white_space_is_free_and_may_be_missing() {
    for text in [
        "table a{id:1;};table b{id:2;};",
        " table\n\ta\r\n{\x0c id\n:\n1\n;\n}\n;\x0btable b { id : 2 ; } ; ",
    ] {
        let ids: Vec<_> = schema(text).tables().map(|(name, table)| (name.to_owned(), table.id.0)).collect();
        assert_eq!(ids, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }
}

#[test]
fn resources_are_accepted_and_mean_nothing() {
    let text = r#"resource "/a#b//c;{ \" }"; table a { id : 1; }; resource"";"#;
    assert_eq!(schema(text).tables().count(), 1);
}

#[test]
fn comments_run_to_the_end_of_their_line() {
    let text =
        "# all { of ; it\ntable a { // \"not a text\n id : 1; # id : 2;\n}; // table b { id : 2; };\n#";
    assert_eq!(schema(text).tables().map(|(name, _)| name).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn the_fields_of_a_table_come_in_any_order() {
    assert_eq!(schema("table a { retain forever; id : 1; };").retain(TableId(1)), Retain::Forever);
}

#[test]
fn keywords_other_than_table_can_name_a_table() {
    let schema = schema("table id { id : 1; }; table retain { id : 2; }; table resource { id : 3; };");
    assert_eq!(schema.tables().count(), 3);
}

#[test]
fn a_retention_is_a_number_with_a_unit_or_a_word() {
    for (field, seconds) in [
        ("retain: 1s;", 1),
        ("retain 90m;", 5_400),
        ("retain :12h ;", 43_200),
        ("retain 7d;", 604_800),
        ("retain: 2w;", 1_209_600),
        ("retain 010s;", 10),
    ] {
        assert_eq!(retain(field), Ok(Retain::Micros(seconds * SECOND)), "{field}");
    }
    assert_eq!(retain("retain forever;"), Ok(Retain::Forever));
    assert_eq!(retain("retain: yesterday;"), Ok(Retain::SinceYesterday));
    assert_eq!(retain("retain 18446744073709s;"), Ok(Retain::Micros(18_446_744_073_709 * SECOND)));
}

// What is refused.

#[test]
fn what_is_not_a_duration_is_refused() {
    for field in [
        "retain 7;",
        "retain d;",
        "retain 7y;",
        "retain 0x7d;",
        "retain 7dd;",
        "retain Forever;",
        "retain _;",
    ] {
        assert_eq!(retain(field), Err(vec![SchemaFault::Duration]), "{field}");
    }
    for field in ["retain;", "retain: ;", "retain -7d;", "retain: :7d;", "retain 7 d;", "retain 7d d;"] {
        assert!(retain(field).is_err(), "{field}");
    }
    assert_eq!(retain("retain 0d;"), Err(vec![SchemaFault::DurationZero]));
    assert_eq!(retain("retain 18446744073710s;"), Err(vec![SchemaFault::DurationTooLong]));
    assert_eq!(retain("retain 99999999999999999999999w;"), Err(vec![SchemaFault::DurationTooLong]));
    assert_eq!(retain("retain 1d; retain 2d;"), Err(vec![SchemaFault::DuplicateField("retain")]));
}

#[test]
fn each_fault_is_found_where_it_is() {
    let cases = [
        ("fruit { id : 1; };", SchemaFault::Clause),
        ("tablefruit { id : 1; };", SchemaFault::Clause),
        ("Table fruit { id : 1; };", SchemaFault::Clause),
        (";", SchemaFault::Clause),
        ("table fruit id : 1; };", SchemaFault::Clause),
        ("index fruit { by { id : 1; } };", SchemaFault::Clause),
        ("table fruit { id : 1;", SchemaFault::Clause),
        ("table fruit", SchemaFault::Clause),
        ("table", SchemaFault::Name),
        ("table { id : 1; };", SchemaFault::Name),
        ("table 9a { id : 1; };", SchemaFault::Name),
        ("table \"a\" { id : 1; };", SchemaFault::Name),
        ("table é { id : 1; };", SchemaFault::Name),
        ("table a-b { id : 1; };", SchemaFault::Clause),
        ("table fruit { id : 1; }", SchemaFault::Semicolon),
        ("table fruit { };", SchemaFault::Id),
        ("table fruit { retain 7d; };", SchemaFault::Id),
        ("table fruit { id 1; };", SchemaFault::Id),
        ("table fruit { id : 1 };", SchemaFault::Id),
        ("table fruit { id : 1 2; };", SchemaFault::Id),
        ("table fruit { id : ; };", SchemaFault::Long),
        ("table fruit { id : x1; };", SchemaFault::Long),
        ("table fruit { id : -1; };", SchemaFault::Long),
        ("table fruit { id : +1; };", SchemaFault::Long),
        ("table fruit { id : 09; };", SchemaFault::Number),
        ("table fruit { id : 0x; };", SchemaFault::Number),
        ("table fruit { id : 0xg; };", SchemaFault::Number),
        ("table fruit { id : 12a; };", SchemaFault::Number),
        ("table fruit { id : 0x10000000000000000; };", SchemaFault::NumberTooLarge),
        ("table fruit { id : 1; id : 2; };", SchemaFault::DuplicateField("id")),
        ("table fruit { id : 1; name : 2; };", SchemaFault::Field),
        ("table fruit { id : 1;; };", SchemaFault::Field),
        ("resource x;", SchemaFault::Resource),
        ("resource \"x\"", SchemaFault::Resource),
        ("resource \"x;", SchemaFault::Unclosed),
        ("resource \"x\\", SchemaFault::Unclosed),
    ];
    for (text, fault) in cases {
        assert_eq!(faults(text), [(1, fault.clone())], "{text}");
        let later = format!("\r\ntable first {{ id : 99; }};\n\n{text}\n\n");
        assert_eq!(faults(&later), [(4, fault)], "{later}");
    }
}

#[test]
fn names_and_ids_are_given_once() {
    let text = "table a { id : 0xBE; };\ntable a { id : 1; };\ntable b { id : 190; };";
    let duplicates =
        [(2, SchemaFault::DuplicateName("a".into())), (3, SchemaFault::DuplicateId(TableId(0xBE)))];
    assert_eq!(faults(text), duplicates);
    let told = Schema::parse(text).unwrap_err().to_string();
    assert!(told.contains("Duplicate table name a at line 2\n"), "{told}");
    assert!(told.contains("Duplicate id 0x00000000000000BE at line 3\n"), "{told}");
}

#[test]
fn names_that_the_server_needs_are_refused() {
    for name in RESERVED_NAMES {
        let text = format!("table {name} {{ id : 1; }};");
        assert!(Schema::parse(&text).is_err(), "{text}");
        if !name.contains(['-', '.']) {
            assert_eq!(faults(&text), [(1, SchemaFault::Reserved(name.to_owned()))]);
        }
    }
    assert_eq!(schema("table tables { id : 1; }; table Admin { id : 2; };").tables().count(), 2);
}

#[test]
fn all_faults_are_told_with_their_lines_and_carets() {
    let text = "table a { id : 09; };\n\ttable b {\n\t\tid 2;\n\t};\ntable c { id : 3; }\nnonsense;\n";
    let expected = "\
This should be a valid octal (starting with 0), decimal number or hexadecimal number (starting with 0x) at line 1
table a { id : 09; };
               ^

Id field improper, expected
id : <long> ;
but found at line 3
\t\tid 2;
\t\t   ^

Expected ; after } at line 5
table c { id : 3; }
                   ^

Bad definition of clause, expected
table <tablename> {
  Field1;Field2;..
};
starting at line 6
nonsense;
^

";
    assert_eq!(Schema::parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn the_line_shown_has_no_carriage_return() {
    let told = Schema::parse("table a {\r\n id : x;\r\n};\r\n").unwrap_err().to_string();
    assert_eq!(told, "Expected long at line 2\n id : x;\n      ^\n\n");
}

#[test]
fn one_missing_brace_does_not_hide_the_next_table() {
    let text = "table a { id : 1;\ntable b { id : x; };\ntable c { id : 3; }; }";
    assert_eq!(faults(text), [(1, SchemaFault::Clause), (2, SchemaFault::Long), (3, SchemaFault::Clause)]);
}

#[test]
fn a_comment_that_swallows_a_table_because_line_breaks_were_stripped_is_refused() {
    let text = "table a { id : 1; }; // fruit\ntable b { id : 2; };";
    assert_eq!(schema(text).tables().count(), 2);
    let stripped = text.replace('\n', "");
    assert_eq!(faults(&stripped), [(1, SchemaFault::HiddenDefinition)]);
    assert_eq!(schema("table a { id : 1; }; # the only one").tables().count(), 1);
}

#[test]
fn a_text_past_the_limit_is_refused_unread() {
    let bytes = SCHEMA_BYTES_MAX + 1;
    assert_eq!(Schema::parse(&" ".repeat(bytes)), Err(SchemaError::TooLong { bytes }));
    assert!(Schema::parse(&" ".repeat(bytes - 1)).is_ok());
}

#[test]
fn a_hostile_text_gives_a_short_error() {
    for piece in
        [";", "}", "{", "\"", "\"\n", "table ", "table a{", "table a{id:1;};", "#{", "é", "\0", "\n;", "a{"]
    {
        let told = Schema::parse(&piece.repeat(SCHEMA_BYTES_MAX / piece.len())).unwrap_err();
        let SchemaError::Invalid { problems, .. } = &told else { panic!("{told:?}") };
        assert!(problems.len() <= PROBLEMS_MAX);
        assert!(told.to_string().len() < 100_000, "{piece:?} {}", told.to_string().len());
    }
    let many = Schema::parse(&"x;".repeat(PROBLEMS_MAX + 7)).unwrap_err().to_string();
    assert!(many.ends_with("There are 7 more problems.\n\n"), "{many}");
}

#[test]
fn of_a_long_line_the_part_around_the_fault_is_shown() {
    let text = format!("{}x{}", "é\u{1b}".repeat(200), "y".repeat(500));
    let Err(SchemaError::Invalid { problems, .. }) = Schema::parse(&format!("{}{text}", " ".repeat(300)))
    else {
        panic!("accepted")
    };
    let problem = &problems[0];
    assert_eq!(problem.caret, 81);
    assert_eq!(problem.excerpt.chars().count(), 162);
    assert!(problem.excerpt.starts_with("… ") && problem.excerpt.ends_with('…'), "{}", problem.excerpt);
    assert_eq!(problem.excerpt.chars().nth(problem.caret), Some('é'));
    assert!(!problem.excerpt.contains('\u{1b}'));
}

// How far back a table can be read.

#[test]
fn the_default_retention_reaches_to_the_midnight_before_last() {
    let day = 86_400 * SECOND;
    let oldest = |now| Retain::default().oldest_readable(TxClock(now)).0;
    assert_eq!(oldest(20 * day), 19 * day);
    assert_eq!(oldest(21 * day - 1), 19 * day);
    assert_eq!(oldest(21 * day), 20 * day);
    assert_eq!(oldest(day / 2), 0);
}

#[test]
fn other_retentions_reach_as_far_as_they_say() {
    assert_eq!(Retain::Micros(7).oldest_readable(TxClock(100)), TxClock(93));
    assert_eq!(Retain::Micros(700).oldest_readable(TxClock(100)), TxClock::ZERO);
    assert_eq!(Retain::Forever.oldest_readable(TxClock::MAX), TxClock::ZERO);
}

#[derive(Debug, Clone)]
struct Style {
    number: u8,
    unit: usize,
    count: u64,
    colon: bool,
    first: bool,
    blank: &'static str,
}

fn any_style() -> impl Strategy<Value = Style> {
    let blank = prop::sample::select(vec!["", " ", "\n", "\t // c { ; \n", "\r\n# \"\n"]);
    (0..3u8, 0..7usize, 1..1000u64, any::<bool>(), any::<bool>(), blank).prop_map(
        |(number, unit, count, colon, first, blank)| Style { number, unit, count, colon, first, blank },
    )
}

/// One table's text in the style, and its retention.
fn written(name: &str, id: u64, style: &Style) -> (String, Retain) {
    let b = style.blank;
    let number = match style.number {
        0 => format!("{id}"),
        1 => format!("0x{id:X}"),
        _ => format!("0{id:o}"),
    };
    let (value, retain) = match style.unit {
        5 => ("forever".to_owned(), Retain::Forever),
        6 => ("yesterday".to_owned(), Retain::SinceYesterday),
        unit => {
            let seconds = [1, 60, 3_600, 86_400, 604_800][unit];
            let letter = ["s", "m", "h", "d", "w"][unit];
            (format!("{}{letter}", style.count), Retain::Micros(style.count * seconds * SECOND))
        }
    };
    let id = format!("{b}id{b}:{b}{number}{b};{b}");
    let colon = if style.colon { ":" } else { " " };
    let keep = format!("{b}retain{colon}{b}{value}{b};{b}");
    let (one, two) = if style.first { (keep, id) } else { (id, keep) };
    (format!("table {name}{b}{{{one}{two}}}{b};{b}\n"), retain)
}

proptest! {
    #[test]
    fn a_schema_says_what_was_written_in_any_style(tables in prop::collection::btree_map(
        "[a-z_$][A-Za-z0-9_$]{0,8}", (any::<u64>(), any_style()), 0..8,
    )) {
        let mut text = String::from("\n");
        let mut expected = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        for (name, (id, style)) in &tables {
            if RESERVED_NAMES.contains(&name.as_str()) || !ids.insert(*id) {
                continue;
            }
            let (written, retain) = written(name, *id, style);
            text.push_str(&written);
            expected.push((name.as_str(), TableSchema { id: TableId(*id), retain }));
        }
        let read = Schema::parse(&text);
        prop_assert!(read.is_ok(), "{}\n{:?}", text, read);
        let read = read.unwrap();
        let found: Vec<_> = read.tables().map(|(name, table)| (name, table.clone())).collect();
        prop_assert_eq!(&found, &expected);
        for (name, table) in &expected {
            prop_assert_eq!(read.table(name), Some(table));
            prop_assert_eq!(read.retain(table.id), table.retain);
        }
        prop_assert_eq!(Schema::parse(read.text()), Ok(read));
    }

    #[test]
    fn any_text_is_a_schema_or_an_error(text in any::<String>()) {
        let _ = Schema::parse(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn whatever_is_pieced_together_is_a_schema_or_an_error_that_points_into_it(pieces in prop::collection::vec(
        prop::sample::select(vec![
            "table", "resource", " ", "\n", "\r\n", "{", "}", ":", ";", "id", "retain", "a", "b", "1", "0x2", "09", "7d",
            "\"", "\\", "#", "//", "é", "\u{7f}", "table a {", "id : 1;", "};", "retain 7d;", "forever", "-",
        ]),
        0..40,
    )) {
        let text = pieces.concat();
        if let Err(error) = Schema::parse(&text) {
            let SchemaError::Invalid { problems, more } = error else { panic!("{text:?} is not too long") };
            prop_assert!(!problems.is_empty());
            prop_assert_eq!(more, 0);
            prop_assert!(problems.is_sorted_by_key(|problem| problem.line));
            for problem in problems {
                prop_assert!(problem.line <= text.split('\n').count());
                prop_assert!(problem.caret <= problem.excerpt.chars().count());
            }
        }
    }
}
