//! What a batch may say, and how it is told off.

use super::*;
use crate::problem::Kind;
use proptest::prelude::*;

fn parse(text: &str) -> Answer<Vec<RowOp>> {
    parse_batch(&Bytes::copy_from_slice(text.as_bytes()), |table| match table {
        "fruit" | "0x1" => Some(TableId(1)),
        "veg" => Some(TableId(2)),
        _ => None,
    })
}

fn detail(text: &str) -> String {
    parse(text).unwrap_err().detail
}

#[test]
fn values_are_kept_byte_for_byte_and_without_a_copy() {
    let body = Bytes::from_static(
        br#"[{"table":"fruit","key":"a","op":"UPDATE","value": {"v" : 1.50, "v":2} ,"note":[1]},
            {"op":"create","key":"b\n","table":"veg","value":null},
            {"op":"hold","key":"a","table":"veg"},
            {"op":"delete","key":"","table":"fruit","value":null}]"#,
    );
    let ops = parse_batch(&body, |t| Some(TableId(t.len() as u64))).unwrap();
    let WriteOp::Update(value) = &ops[0].op else { panic!("{:?}", ops[0]) };
    assert_eq!(&value.bytes[..], br#"{"v" : 1.50, "v":2}"#);
    assert!(body.as_ptr_range().contains(&value.bytes.as_ptr()));
    assert!(matches!(&ops[1].op, WriteOp::Create(v) if &v.bytes[..] == b"null"));
    assert_eq!((&ops[1].key[..], ops[1].table), (&b"b\n"[..], TableId(3)));
    assert_eq!((&ops[2].op, &ops[3].op), (&WriteOp::Hold, &WriteOp::Delete));
}

#[test]
fn bytes_that_are_not_text_come_in_as_base64() {
    let ops = parse(
        r#"[{"table":"fruit","keyBase64":"/wA=","op":"update","base64":"AAEC","contentType":"image/png"}]"#,
    )
    .unwrap();
    assert_eq!(&ops[0].key[..], b"\xff\x00");
    let WriteOp::Update(value) = &ops[0].op else { panic!() };
    assert_eq!(value.content_type, ContentType::Other("image/png".into()));
    assert_eq!(&value.bytes[..], [0, 1, 2]);
    assert!(
        detail(r#"[{"table":"fruit","keyBase64":"?","op":"hold"}]"#).starts_with("Bad base64 in 'keyBase64'")
    );
    assert!(
        detail(r#"[{"table":"fruit","key":"a","op":"update","base64":"AA=="}]"#).contains("'contentType'")
    );
    let json =
        r#"[{"table":"fruit","key":"a","op":"update","base64":"e30=","contentType":"application/json"}]"#;
    assert!(matches!(&parse(json).unwrap()[0].op, WriteOp::Update(v) if v.content_type == ContentType::Json));
}

#[test]
fn each_fault_is_told_in_the_words_of_the_interface() {
    let cases = [
        (r#"[{}]"#, "There is no attribute called 'table'"),
        (r#"[1]"#, "There is no attribute called 'table'"),
        (r#"[{"table":"fruit"}]"#, "There is no attribute called 'key'"),
        (r#"[{"table":"fruit","key":"a"}]"#, "There is no attribute called 'op'"),
        (r#"[{"table":"fruit","key":"a","op":"create"}]"#, "There is no attribute called 'value'"),
        (r#"[{"table":"fruit","key":"a","op":"bad"}]"#, "Unsupported operation: \"bad\"."),
        (r#"[{"table":"nope","key":"a","op":"hold"}]"#, "Bad table ID: nope"),
        (r#"[{"table":"fruit","key":1,"op":"hold"}]"#, "The attribute 'key' has to be a string"),
        (r#"[{"table":"fruit","key":"a","op":null}]"#, "The attribute 'op' has to be a string"),
        ("[]", "Batch must have some writes."),
        ("{}", "Batch must have some writes."),
        ("7", "Batch must have some writes."),
        (r#"[{"table":"fruit","key":"a","op":"hold"}]"#, "Batch must have some writes."),
        ("", "The batch is not JSON"),
        ("[}", "The batch is not JSON"),
        ("[] []", "The batch is not JSON"),
    ];
    for (text, start) in cases {
        assert!(detail(text).starts_with(start), "{text}: {}", detail(text));
    }
}

#[test]
fn a_row_stands_in_a_batch_once_under_whatever_name() {
    let twice = r#"[{"table":"fruit","key":"a","op":"hold"},{"table":"fruit","key":"\u0061","op":"hold"}]"#;
    assert!(detail(twice).starts_with("Multiple rows found for \"fruit:a\"."));
    let aliased = r#"[{"table":"fruit","key":"a","op":"hold"},{"table":"0x1","key":"a","op":"delete"}]"#;
    assert!(detail(aliased).starts_with("Multiple rows found for \"0x1:a\"."));
    // The repetition is noticed before the unknown table is.
    let unknown = r#"[{"table":"fruit","key":"a","op":"hold"},{"table":"x","key":"a","op":"hold"}]"#;
    assert!(detail(unknown).starts_with("Bad table ID: x"));
}

#[test]
fn a_missing_value_is_told_before_an_unknown_table() {
    assert!(
        detail(r#"[{"table":"x","key":"a","op":"update"}]"#)
            .starts_with("There is no attribute called 'value'")
    );
}

#[test]
fn a_batch_past_a_limit_is_refused_with_the_limit() {
    let element = r#"{"table":"fruit","key":"a","op":"hold"}"#;
    let many = format!("[{}]", vec![element; BATCH_OPS_MAX + 1].join(","));
    let problem = parse(&many).unwrap_err();
    assert_eq!(problem.kind, Kind::TooLarge);
    assert!(problem.detail.contains("10000 operations"));
    let long = format!(r#"[{{"table":"fruit","key":"{}","op":"delete"}}]"#, "k".repeat(16385));
    assert_eq!(parse(&long).unwrap_err().kind, Kind::TooLarge);
}

#[test]
fn deep_nesting_is_refused_wherever_it_stands() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(parse(&deep).is_err());
    let value = format!(r#"[{{"table":"fruit","key":"a","op":"update","value":{deep}}}]"#);
    assert!(detail(&value).starts_with("Bad 'value'"));
    let ignored = format!(r#"[{{"table":"fruit","key":"a","op":"delete","other":{deep}}}]"#);
    assert!(parse(&ignored).is_ok());
}

proptest! {
    #[test]
    fn keys_and_values_come_back_as_sent(key in any::<String>(), value in any::<Vec<String>>()) {
        let value = serde_json::to_string(&value).unwrap();
        let text = format!(
            r#"[{{"table":"fruit","key":{},"op":"update","value":{value}}}]"#,
            serde_json::to_string(&key).unwrap()
        );
        let ops = parse(&text).unwrap();
        prop_assert_eq!(&ops[0].key[..], key.as_bytes());
        let WriteOp::Update(kept) = &ops[0].op else { panic!() };
        prop_assert_eq!(&kept.bytes[..], value.as_bytes());
    }

    #[test]
    fn arbitrary_bodies_never_panic(text in r#"([\[\]{},:"]|table|key|op|hold|value|null|1| |\\u){0,40}"#) {
        let _ = parse(&text);
    }
}
