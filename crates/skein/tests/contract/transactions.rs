//! Transaction IDs and `/tx-status`: outcomes that never change, and writes that may be sent again.

use crate::support::Server;
use crate::support::shared::{Table, problem, problem_saying, solo, written};
use crate::support::wire::{self, Reply};

/// Asks what became of a transaction.
fn status(table: &Table, id: &str) -> Reply {
    table.solo.ask("GET", "/tx-status", &[("Transaction-ID", id)], "")
}

/// An ID that no other test uses: its first digits are the table's.
fn id(table: &Table, rest: &str) -> String {
    format!("{}{rest}", &table.id()[2..])
}

#[test]
fn a_committed_transaction_says_its_time_whoever_named_it() {
    let table = Table::new();
    let id = id(&table, "c0ffee");
    for (method, headers) in
        [("PUT", vec![("Transaction-ID", id.as_str())]), ("DELETE", vec![]), ("POST", vec![])]
    {
        let reply = table.ask(method, "a", &headers, "1");
        let time = written(&reply);
        let named = reply.said("transaction-id").to_owned();
        let told = status(&table, &named);
        assert_eq!(written(&told), time, "{method}");
        assert_eq!(told.said("transaction-id"), named);
        assert!(time <= told.number("server-txclock"));
    }
    let batch = format!(r#"[{{"table":"{}","key":"b","op":"update","value":1}}]"#, table.id());
    let reply = table.solo.batch(&[], &batch);
    assert_eq!(written(&status(&table, reply.said("transaction-id"))), written(&reply));
}

#[test]
fn letter_case_and_leading_zeros_of_an_id_do_not_matter() {
    let table = Table::new();
    let id = id(&table, "abcdef0");
    let time = written(&table.ask("PUT", "a", &[("Transaction-ID", &id.to_uppercase())], "1"));
    for spelled in [id.clone(), id.to_uppercase(), format!("0{id}"), format!("{}{id}", "0".repeat(600))] {
        assert_eq!(written(&status(&table, &spelled)), time, "{spelled}");
        assert_eq!(written(&table.ask("PUT", "a", &[("Transaction-ID", &spelled)], "1")), time, "{spelled}");
    }
    assert_eq!(table.get("a").number("value-txclock"), time, "it was written once");
    problem(&status(&table, &format!("{id}0")), 409, "transaction-aborted");
}

#[test]
fn asking_about_an_unknown_transaction_aborts_it_for_good() {
    let table = Table::new();
    let unknown = id(&table, "dead");
    for _ in 0..2 {
        let told = status(&table, &unknown);
        problem(&told, 409, "transaction-aborted");
        assert_eq!(told.header("value-txclock"), None);
        assert!(told.header("server-txclock").is_some());
    }
    for (method, body) in [("PUT", "1"), ("POST", "1"), ("DELETE", "")] {
        let late = table.ask(method, "a", &[("Transaction-ID", &unknown)], body);
        problem(&late, 409, "transaction-aborted");
    }
    let batch = format!(r#"[{{"table":"{}","key":"a","op":"update","value":1}}]"#, table.id());
    problem(&table.solo.batch(&[("Transaction-ID", &unknown)], &batch), 409, "transaction-aborted");
    assert_eq!(table.get("a").number("value-txclock"), 0, "nothing was ever written");
    problem(&status(&table, &unknown), 409, "transaction-aborted");
}

#[test]
fn a_refused_write_is_aborted_and_answers_the_same_again() {
    let table = Table::new();
    let first = table.put("a", "1");
    let (collides, stale) = (id(&table, "1"), id(&table, "2"));
    let before = (first - 1).to_string();
    let post = || table.ask("POST", "a", &[("Transaction-ID", &collides)], "2");
    let put = || table.ask("PUT", "a", &[("Transaction-ID", &stale), ("Condition-TxClock", &before)], "2");
    problem(&post(), 409, "collision");
    problem(&put(), 412, "stale");
    assert_eq!(put().said("transaction-id").trim_start_matches('0'), stale);
    for id in [&collides, &stale] {
        problem(&status(&table, id), 409, "transaction-aborted");
    }
    // Even when it could succeed by now.
    table.delete("a");
    problem(&post(), 409, "collision");
    let again = put();
    problem(&again, 412, "stale");
    assert_eq!(again.number("value-txclock"), first, "as it was told the first time");
    assert_eq!(table.get("a").status, 404);
}

#[test]
fn a_write_sent_again_answers_what_became_of_it_and_happens_once() {
    let table = Table::new();
    let once = id(&table, "0a");
    let send = || table.ask("PUT", "a", &[("Transaction-ID", &once)], "1");
    let time = written(&send());
    let between = table.put("a", "2");
    let again = send();
    assert_eq!(written(&again), time);
    assert_eq!(again.said("etag"), format!("\"0x{time:X}\""));
    assert_eq!((table.get("a").text(), table.get("a").number("value-txclock")), ("2", between));
    let times: Vec<u64> = std::thread::scope(|scope| {
        let sends: Vec<_> = (0..8)
            .map(|_| {
                scope
                    .spawn(|| written(&table.ask("POST", "b", &[("Transaction-ID", &id(&table, "0b"))], "1")))
            })
            .collect();
        sends.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert!(times.iter().all(|t| *t == times[0]), "{times:?}");
}

#[test]
fn an_id_that_was_used_for_something_else_is_refused() {
    let table = Table::new();
    let used = id(&table, "0c");
    let time = written(&table.ask("PUT", "a", &[("Transaction-ID", &used)], "1"));
    let condition = time.to_string();
    let image = [("Transaction-ID", used.as_str()), ("Content-Type", "image/png")];
    let conditional = [("Transaction-ID", used.as_str()), ("Condition-TxClock", condition.as_str())];
    let matching = [("Transaction-ID", used.as_str()), ("If-None-Match", "*")];
    let plain = [("Transaction-ID", used.as_str())];
    for (method, key, headers, body) in [
        ("PUT", "a", &plain[..], "2"),
        ("PUT", "b", &plain[..], "1"),
        ("POST", "a", &plain[..], "1"),
        ("DELETE", "a", &plain[..], ""),
        ("PUT", "a", &image[..], "1"),
        ("PUT", "a", &conditional[..], "1"),
        ("PUT", "a", &matching[..], "1"),
    ] {
        problem_saying(&table.ask(method, key, headers, body), 422, "transaction-id-reused", &used);
    }
    let batch = |ops: &str| table.solo.batch(&plain, &format!("[{ops}]"));
    let op = |key: &str| format!(r#"{{"table":"{}","key":"{key}","op":"update","value":1}}"#, table.id());
    problem(&batch(&format!("{},{}", op("a"), op("b"))), 422, "transaction-id-reused");
    assert_eq!(written(&batch(&op("a"))), time, "the same write in another spelling is the same write");
    assert_eq!((table.get("b").status, table.get("a").number("value-txclock")), (404, time));
    assert_eq!(written(&status(&table, &used)), time);
}

#[test]
fn an_id_has_to_be_a_hexadecimal_number_of_at_most_512_digits() {
    let table = Table::new();
    for bad in ["xyz", "0x12", "", "-1", "12 34", "1.", &"f".repeat(513)] {
        let headers = [("Transaction-ID", bad)];
        let text = "Bad Transaction-ID: ";
        problem_saying(&table.ask("PUT", "a", &headers, "1"), 400, "bad-request", text);
        problem_saying(&table.ask("DELETE", "a", &headers, ""), 400, "bad-request", text);
        problem_saying(&status(&table, bad), 400, "bad-request", text);
        problem_saying(&table.solo.batch(&headers, "[]"), 400, "bad-request", text);
    }
    let longest = format!("{}{}", id(&table, ""), "f".repeat(512 - id(&table, "").len()));
    let time = written(&table.ask("PUT", "a", &[("Transaction-ID", &longest)], "1"));
    assert_eq!(written(&status(&table, &longest)), time);
}

#[test]
fn the_status_of_nothing_is_a_bad_request() {
    let solo = solo();
    for path in ["/tx-status", "/tx-status/"] {
        problem_saying(&solo.get(path), 400, "bad-request", "Transaction-ID");
    }
    let ids = [("Transaction-ID", "1"), ("Transaction-ID", "2")];
    problem_saying(&solo.ask("GET", "/tx-status", &ids, ""), 400, "bad-request", "Transaction-ID");
}

#[test]
fn mistakes_of_a_write_are_told_in_order() {
    let table = Table::new();
    let mut headers = vec![
        ("Read-TxClock", "x"),
        ("Transaction-ID", "x"),
        ("Condition-TxClock", "x"),
        ("If-Match", "x"),
        ("Content-Type", "x"),
    ];
    for message in [
        "Bad time for Read-TxClock",
        "Bad Transaction-ID",
        "Bad time for Condition-TxClock",
        "If-Match",
        "Bad Content-Type",
    ] {
        problem_saying(&table.ask("PUT", "a", &headers, "{"), 400, "bad-request", message);
        headers.remove(0);
    }
    problem_saying(&table.ask("PUT", "a", &headers, "{"), 400, "bad-request", "not JSON");
}

#[test]
fn outcomes_outlive_the_server_even_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let put = |server: &Server, id: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("Transaction-ID", id)];
        all.extend(headers);
        wire::ask(&server.http, "PUT", "/table/0x1?key=a", &all, b"1")
    };
    let server = Server::solo(dir.path());
    let time = written(&put(&server, "c0", &[]));
    problem(&put(&server, "ab", &[("If-None-Match", "*")]), 412, "stale");
    problem(
        &wire::ask(&server.http, "GET", "/tx-status", &[("Transaction-ID", "dead")], b""),
        409,
        "transaction-aborted",
    );
    server.kill();
    let server = Server::start(&["--solo"], dir.path());
    assert_eq!(written(&put(&server, "c0", &[])), time);
    problem(&put(&server, "c0", &[("If-Match", "*")]), 422, "transaction-id-reused");
    let again = put(&server, "ab", &[("If-None-Match", "*")]);
    problem(&again, 412, "stale");
    assert_eq!(again.number("value-txclock"), time);
    problem(&put(&server, "dead", &[]), 409, "transaction-aborted");
    assert!(time < written(&put(&server, "c1", &[])));
    server.stop();
}
