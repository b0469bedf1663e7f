use super::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that gives each connection the next of the scripts, each a list of answers, and then closes it.
/// Ends with the requests it read.
async fn scripted(scripts: Vec<Vec<&'static str>>) -> (HttpTarget, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = HttpTarget::at(listener.local_addr().unwrap(), "h", "0x1");
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answers in scripts {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read(&mut byte).await.unwrap() == 0 {
                        return requests;
                    }
                    request.push(byte[0]);
                }
                let head = String::from_utf8(request).unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Content-Length: "))
                    .map_or(0, |length| length.parse().unwrap());
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                requests.push(head + std::str::from_utf8(&body).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        requests
    });
    (target, server)
}

fn values() -> Values {
    Values::new(5, 1, 0)
}

const GET: Op = Op::Get { key: 1 };
const FIVE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\"abc\"";

#[tokio::test]
async fn one_connection_carries_request_after_request() {
    let (target, server) =
        scripted(vec![vec![FIVE, FIVE, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]]).await;
    let mut client = target.connect(0).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.perform(GET, &mut values()).await, Ok(Done { rows: 0, bytes: 5 }));
    }
    assert_eq!(client.perform(Op::Put { key: 2 }, &mut values()).await, Ok(Done::default()));
    let requests = server.await.unwrap();
    assert!(requests[2].starts_with("PUT /table/0x1?key=k00000000002 HTTP/1.1\r\n"), "{}", requests[2]);
}

#[tokio::test]
async fn a_value_of_another_length_is_a_failure() {
    let (target, _server) = scripted(vec![vec!["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\"ab\""]]).await;
    let mut client = target.connect(0).await.unwrap();
    let outcome = client.perform(GET, &mut values()).await;
    assert_eq!(outcome, Err(Failure::Named("value of another length")));
}

#[tokio::test]
async fn a_refusal_is_counted_by_status_and_keeps_the_connection() {
    let refused = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let (target, _server) = scripted(vec![vec![refused, FIVE]]).await;
    let mut client = target.connect(0).await.unwrap();
    assert_eq!(client.perform(GET, &mut values()).await, Err(Failure::Status(503)));
    assert!(client.perform(GET, &mut values()).await.is_ok());
}

#[tokio::test]
async fn after_a_broken_answer_the_next_request_uses_a_new_connection() {
    for (broken, failure) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\"a", "connection lost"),
        ("HTTP/1.1 200 OK\r\nConte", "connection lost"),
        ("SMTP ready\r\n\r\n", "malformed answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\"abc\"more", "bytes nobody asked for"),
    ] {
        let (target, _server) = scripted(vec![vec![broken], vec![FIVE]]).await;
        let mut client = target.connect(0).await.unwrap();
        assert_eq!(client.perform(GET, &mut values()).await, Err(Failure::Named(failure)), "{broken}");
        assert!(client.perform(GET, &mut values()).await.is_ok(), "after {broken}");
    }
}

#[tokio::test]
async fn a_connection_the_server_closes_is_replaced_without_a_failure() {
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n\"abc\"";
    let (target, _server) = scripted(vec![vec![last], vec![FIVE]]).await;
    let mut client = target.connect(0).await.unwrap();
    assert!(client.perform(GET, &mut values()).await.is_ok());
    assert!(client.perform(GET, &mut values()).await.is_ok());
}

#[tokio::test]
async fn an_abandoned_request_takes_its_connection_along() {
    let (target, _server) = scripted(vec![vec!["HTTP/1.1 200 OK\r\nContent-Le"], vec![FIVE]]).await;
    let mut client = target.connect(0).await.unwrap();
    {
        let mut values = values();
        let mut asking = std::pin::pin!(client.perform(GET, &mut values));
        // One poll sends the request; then it is dropped, as a time-out would.
        std::future::poll_fn(|cx| {
            assert!(asking.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    assert!(client.perform(GET, &mut values()).await.is_ok());
}

#[tokio::test]
async fn a_conditional_update_stands_on_the_time_of_the_last_one() {
    let at = "HTTP/1.1 200 OK\r\nValue-TxClock: 1001\r\nContent-Length: 0\r\n\r\n";
    let stale = "HTTP/1.1 412 Precondition Failed\r\nValue-TxClock: 1005\r\nContent-Length: 0\r\n\r\n";
    let (target, server) = scripted(vec![vec![at, stale, at]]).await;
    let mut client = target.connect(7).await.unwrap();
    assert!(client.perform(Op::Conditional, &mut values()).await.is_ok());
    assert_eq!(client.perform(Op::Conditional, &mut values()).await, Err(Failure::Status(412)));
    assert!(client.perform(Op::Conditional, &mut values()).await.is_ok());
    let requests = server.await.unwrap();
    assert!(requests.iter().all(|request| request.contains("key=c00000000007")));
    let conditions = requests.iter().map(|request| request.contains("Condition-TxClock: 1001\r\n"));
    assert_eq!(conditions.collect::<Vec<_>>(), [false, true, false]);
}

#[tokio::test]
async fn a_scan_counts_the_lines_of_a_chunked_answer() {
    let lines =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{}\n{}\n\r\n3\r\n{}\n\r\n0\r\n\r\n";
    let (target, _server) = scripted(vec![vec![lines]]).await;
    let mut client = target.connect(0).await.unwrap();
    assert_eq!(client.perform(Op::Scan, &mut values()).await, Ok(Done { rows: 3, bytes: 9 }));
}

#[tokio::test]
async fn a_fill_writes_all_its_rows_in_one_batch() {
    let (target, server) = scripted(vec![vec!["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]]).await;
    let mut client = target.connect(0).await.unwrap();
    assert!(client.perform(Op::Fill { first: 10, count: 3 }, &mut values()).await.is_ok());
    let requests = server.await.unwrap();
    let (head, body) = requests[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /batch-write "));
    let rows: serde_json::Value = serde_json::from_str(body).unwrap();
    let keys: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["k00000000010", "k00000000011", "k00000000012"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    // Bound and dropped, so that the port is free.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = HttpTarget::at(address, "h", "0x1").connect(0).await.unwrap_err();
    assert_eq!(error.to_string(), format!("connect to {address}"));
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_with_the_reason() {
    for (url, reason) in [
        ("https://127.0.0.1:7070", "plain http"),
        ("127.0.0.1:7070", "plain http"),
        ("http://127.0.0.1:7070/table", "no meaning"),
        ("http://a b", "invalid"),
    ] {
        let error = HttpTarget::resolve(&[url.to_owned()], "0x1").await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let target = HttpTarget::resolve(&["http://127.0.0.1:7070/".to_owned()], "0x1").await.unwrap();
    assert_eq!(target.doors[0].address, SocketAddr::from(([127, 0, 0, 1], 7070)));
}

#[tokio::test]
async fn clients_are_dealt_out_and_leave_a_server_that_is_gone() {
    let (first, ended) = scripted(vec![vec![FIVE]]).await;
    let (second, server) = scripted(vec![vec![FIVE], vec![FIVE]]).await;
    let target = HttpTarget { doors: [first.doors[0].clone(), second.doors[0].clone()].into() };
    let (mut even, mut odd) = (target.connect(2).await.unwrap(), target.connect(1).await.unwrap());
    odd.perform(GET, &mut values()).await.unwrap();
    even.perform(GET, &mut values()).await.unwrap();
    // The first server has closed the connection and its port.
    ended.await.unwrap();
    assert_eq!(even.perform(GET, &mut values()).await, Err(Failure::Named("connection lost")));
    assert_eq!(even.perform(GET, &mut values()).await, Err(Failure::Named("cannot connect")));
    even.perform(GET, &mut values()).await.unwrap();
    assert_eq!(server.await.unwrap().len(), 2);
}

#[test]
fn large_values_are_filled_in_smaller_batches() {
    let target = HttpTarget::at(SocketAddr::from(([127, 0, 0, 1], 1)), "h", "0x1");
    assert_eq!(target.fill_rows_max(100), FILL_ROWS_MAX);
    assert_eq!(target.fill_rows_max(1 << 20), 4);
    assert_eq!(target.fill_rows_max(16 << 20), 1);
}
