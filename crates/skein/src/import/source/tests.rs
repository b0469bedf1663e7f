use super::*;
use std::io::Cursor;

fn read(format: Format, numbers: bool, text: &[u8]) -> Vec<Result<(String, String), (u64, String)>> {
    let mut source = open(Cursor::new(text.to_vec()), format, "id", numbers).unwrap();
    let mut all = Vec::new();
    while let Some(next) = source.next().unwrap() {
        all.push(match next {
            Ok(row) => Ok((String::from_utf8(row.key).unwrap(), String::from_utf8(row.members).unwrap())),
            Err(bad) => Err((bad.line, bad.reason)),
        });
    }
    all
}

fn lines(text: &str) -> Vec<Result<(String, String), (u64, String)>> {
    read(Format::Jsonl, false, text.as_bytes())
}

fn ok(key: &str, members: &str) -> Result<(String, String), (u64, String)> {
    Ok((key.to_owned(), members.to_owned()))
}

#[test]
fn a_line_is_the_value_byte_for_byte() {
    let text = "{ \"id\" : \"a\\u00e9\",  \"n\": 1.50}\r\n\n{\"n\":{\"id\":1},\"id\":-7}";
    assert_eq!(
        lines(text),
        [
            ok("aé", "\"key\":\"aé\",\"value\":{ \"id\" : \"a\\u00e9\",  \"n\": 1.50}"),
            ok("-7", "\"key\":\"-7\",\"value\":{\"n\":{\"id\":1},\"id\":-7}"),
        ]
    );
}

#[test]
fn bad_lines_are_numbered_and_say_why_and_the_others_go_on() {
    let text = "{\"id\":1}\nnope\n{\"x\":1}\n{\"id\":null}\n[1]\n{\"id\":1,\"id\":2}\n{\"id\":1} {}\n3\n{\"id\":2}\n";
    let all = lines(text);
    let bad: Vec<(u64, &str)> =
        all.iter().filter_map(|r| r.as_ref().err()).map(|(n, why)| (*n, why.as_str())).collect();
    assert_eq!(
        bad,
        [
            (2, "expected ident at column 2"),
            (3, "it has no member \"id\""),
            (4, "\"id\" is neither a string nor a number"),
            (5, "it is not a JSON object"),
            (6, "it has more than one member \"id\""),
            (7, "trailing characters at column 10"),
            (8, "it is not a JSON object"),
        ]
    );
    assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 2);
}

#[test]
fn invalid_utf8_and_a_value_cut_short_are_bad_lines() {
    let mut text = b"{\"id\":\"\xff\"}\n{\"id\":1,\"x\":".to_vec();
    text.extend(std::iter::repeat_n(b'[', 100_000));
    text.push(b'\n');
    let all = read(Format::Jsonl, false, &text);
    assert_eq!(all[0], Err((1, "it is not UTF-8 after byte 7".into())));
    assert!(matches!(&all[1], Err((2, why)) if why.starts_with("EOF")), "{:?}", all[1]);
}

#[test]
fn a_line_past_the_limit_is_skipped_whole() {
    let mut input = Cursor::new(b"aaaaaaaaaa\nbb\r\ncccc".to_vec());
    let mut small = io::BufReader::with_capacity(3, &mut input);
    assert!(matches!(read_line(&mut small, 4).unwrap(), LineRead::TooLong(10)));
    assert!(matches!(read_line(&mut small, 4).unwrap(), LineRead::Line(l) if l == b"bb"));
    assert!(matches!(read_line(&mut small, 4).unwrap(), LineRead::Line(l) if l == b"cccc"));
    assert!(matches!(read_line(&mut small, 4).unwrap(), LineRead::End));
}

#[test]
fn keys_past_the_limit_are_bad_lines() {
    let fits = format!("{{\"id\":\"{}\"}}", "k".repeat(KEY_BYTES_MAX));
    let long = format!("{{\"id\":\"{}\"}}", "k".repeat(KEY_BYTES_MAX + 1));
    let all = lines(&format!("{fits}\n{long}\n"));
    assert!(all[0].is_ok());
    assert!(matches!(&all[1], Err((2, why)) if why.contains("16384")), "{:?}", all[1]);
}

#[test]
fn a_csv_row_becomes_an_object_of_strings() {
    let text = "\u{feff}id,name\n1,\"a, \"\"b\"\"\"\n2,x,y\n3,\"two\nlines\"\n4,z\n";
    assert_eq!(
        read(Format::Csv, false, text.as_bytes()),
        [
            ok("1", r#""key":"1","value":{"id":"1","name":"a, \"b\""}"#),
            Err((3, "it has 3 columns, the header 2".into())),
            ok("3", r#""key":"3","value":{"id":"3","name":"two\nlines"}"#),
            ok("4", r#""key":"4","value":{"id":"4","name":"z"}"#),
        ]
    );
}

#[test]
fn numbers_in_csv_become_numbers_only_when_json_writes_them_so() {
    let text = "id,v\na,1.5\nb,007\nc,-2e3\nd, 4\ne,\nf,1e\n";
    let values: Vec<String> = read(Format::Csv, true, text.as_bytes())
        .into_iter()
        .map(|r| r.unwrap().1.split_once("\"v\":").unwrap().1.trim_end_matches('}').to_owned())
        .collect();
    assert_eq!(values, ["1.5", "\"007\"", "-2e3", "\" 4\"", "\"\"", "\"1e\""]);
}

#[test]
fn a_csv_without_the_key_column_is_refused_with_the_columns_it_has() {
    let refused = open(Cursor::new(b"a,b\n1,2\n".to_vec()), Format::Csv, "id", false).err().unwrap();
    assert!(refused.to_string().contains("no column \"id\"; it has a, b"), "{refused}");
}

#[test]
fn exported_lines_come_back_as_the_rows_they_were() {
    let text = concat!(
        r#"{"key":"a","time":5,"value":{"x": 1}}"#,
        "\n",
        r#"{"keyBase64":"/w==","time":5,"value":{"contentType":"text/plain","base64":"aGk="}}"#,
        "\n",
        r#"{"time":5,"value":1}"#,
    );
    let all = read(Format::Rows, false, text.as_bytes());
    assert_eq!(all[0].as_ref().unwrap().1, r#""key":"a","value":{"x": 1}"#);
    assert_eq!(
        all[1].as_ref().unwrap().1,
        r#""keyBase64":"/w==","contentType":"text/plain","base64":"aGk=""#
    );
    assert!(matches!(&all[2], Err((3, why)) if why.contains("keyBase64")));
}
