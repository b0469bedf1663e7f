use super::*;
use crate::limits::hello::HelloServer;
use crate::tally::Done;
use std::collections::BTreeSet;

/// Remembers what it was asked, and answers as told.
#[derive(Clone, Default)]
struct Notebook {
    asked: Arc<Mutex<Vec<(u64, Op)>>>,
    answer: Answer,
    refuses_client: Option<u64>,
}

#[derive(Clone, Copy, Default)]
enum Answer {
    #[default]
    Yes,
    No,
    Never,
}

struct Page {
    number: u64,
    notebook: Notebook,
}

impl Target for Notebook {
    type Client = Page;
    async fn connect(&self, number: u64) -> Result<Page, BenchError> {
        if self.refuses_client == Some(number) {
            return Err(BenchError::Options("full".to_owned()));
        }
        Ok(Page { number, notebook: self.clone() })
    }
    fn fill_rows_max(&self, _value_bytes: usize) -> u64 {
        4
    }
}

impl Client for Page {
    async fn perform(&mut self, op: Op, _values: &mut Values) -> Outcome {
        self.notebook.asked.lock().unwrap().push((self.number, op));
        tokio::task::yield_now().await;
        match self.notebook.answer {
            Answer::Yes => Ok(Done { rows: 0, bytes: 1 }),
            Answer::No => Err(Failure::Status(503)),
            Answer::Never => std::future::pending().await,
        }
    }
}

fn plan(length: Length) -> Plan {
    Plan {
        workload: Workload::Put,
        clients: 5,
        threads: 2,
        keys: 100,
        value_bytes: 10,
        seed: 3,
        warmup: Duration::ZERO,
        length,
        rate: None,
        timeout: Duration::from_millis(20),
    }
}

#[tokio::test]
async fn a_number_of_operations_is_counted_exactly_and_by_all_clients() {
    let target = Notebook::default();
    let tally = drive(&plan(Length::Ops(500)), &target).await.unwrap();
    assert_eq!((tally.done(), tally.failed(), tally.bytes, tally.unsent), (500, 0, 500, 0));
    assert_eq!(target.asked.lock().unwrap().len(), 500);
}

#[tokio::test]
async fn all_clients_of_a_thread_ask() {
    let target = Notebook::default();
    // One thread, on which clients take turns; among several, one may be done before another has begun.
    drive(&Plan { threads: 1, ..plan(Length::Ops(500)) }, &target).await.unwrap();
    let asked = target.asked.lock().unwrap();
    assert_eq!(asked.iter().map(|(client, _)| *client).collect::<BTreeSet<_>>(), (0..5).collect());
}

#[tokio::test]
async fn each_client_asks_what_its_seed_says() {
    let target = Notebook::default();
    drive(&plan(Length::Ops(200)), &target).await.unwrap();
    let asked = target.asked.lock().unwrap();
    for client in 0..5 {
        let mut ops = Ops::new(Workload::Put, 100, 3, client);
        for (_, op) in asked.iter().filter(|(number, _)| *number == client) {
            assert_eq!(*op, ops.next_op());
        }
    }
}

#[tokio::test]
async fn what_is_asked_during_the_warm_up_is_not_counted() {
    const HOUR: Duration = Duration::from_secs(3600);
    let now = Instant::now();
    let shared = Arc::new(Shared {
        plan: plan(Length::For(HOUR)),
        tally: Mutex::new(Tally::new()),
        taken: Arc::default(),
    });
    let target = Notebook::default();
    let worker = |measure| Worker {
        client: Page { number: 0, notebook: target.clone() },
        ops: Ops::new(Workload::Put, 100, 3, 0),
        values: Values::new(10, 3, 0),
        shared: shared.clone(),
        moments: Moments { start: now, measure, end: Some(Instant::now() + Duration::from_millis(20)) },
    };
    worker(now + HOUR).run_closed().await;
    assert_eq!(shared.tally().done(), 0);
    let warming = target.asked.lock().unwrap().len() as u64;
    worker(now).run_closed().await;
    assert_eq!(shared.tally().done() + warming, target.asked.lock().unwrap().len() as u64);
}

#[tokio::test]
async fn failures_count_as_operations_so_that_a_dead_server_ends_the_run() {
    let target = Notebook { answer: Answer::No, ..Notebook::default() };
    let tally = drive(&plan(Length::Ops(50)), &target).await.unwrap();
    assert_eq!((tally.done(), tally.failures.get(&Failure::Status(503))), (0, Some(&50)));
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up() {
    let target = Notebook { answer: Answer::Never, ..Notebook::default() };
    let tally = drive(&plan(Length::Ops(5)), &target).await.unwrap();
    assert_eq!(tally.failures.get(&Failure::Named("timed out")), Some(&5));
}

#[tokio::test]
async fn an_open_loop_sends_every_arrival_or_tells_how_many_it_did_not() {
    let mut plan = plan(Length::Ops(200));
    plan.rate = Some(20_000);
    let target = Notebook::default();
    let tally = drive(&plan, &target).await.unwrap();
    assert_eq!(tally.done() + tally.unsent, 200);
    assert_eq!(target.asked.lock().unwrap().len() as u64, tally.done());
}

#[tokio::test]
async fn arrivals_that_find_no_free_client_are_not_forgotten() {
    // Five clients, each stuck in its first question until long after the last arrival.
    let target = Notebook { answer: Answer::Never, ..Notebook::default() };
    let mut plan = plan(Length::Ops(200));
    plan.rate = Some(20_000);
    let tally = drive(&plan, &target).await.unwrap();
    assert_eq!(tally.failed() + tally.unsent, 200);
    assert!(tally.failed() <= 5, "{}", tally.failed());
}

#[tokio::test]
async fn a_client_that_cannot_connect_voids_the_run() {
    for refused in [0, 4] {
        let target = Notebook { refuses_client: Some(refused), ..Notebook::default() };
        let error = drive(&plan(Length::Ops(50)), &target).await.unwrap_err();
        assert!(matches!(error, BenchError::Options(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_prefill_writes_each_row_once() {
    let target = Notebook::default();
    prefill(&target, 101, 10, 1).await.unwrap();
    let mut rows = Vec::new();
    for (_, op) in target.asked.lock().unwrap().iter() {
        let Op::Fill { first, count } = *op else { panic!("{op:?}") };
        rows.extend(first..first + count);
    }
    rows.sort_unstable();
    assert_eq!(rows, (0..101).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_prefill_that_fails_says_with_what() {
    let target = Notebook { answer: Answer::No, ..Notebook::default() };
    let error = prefill(&target, 1000, 10, 1).await.unwrap_err().to_string();
    assert!(error.ends_with("the first with: 503"), "{error}");
    // Each of the clients stopped at its first failure.
    assert!(target.asked.lock().unwrap().len() <= 8);
}

#[tokio::test]
async fn gets_against_a_real_server_are_done_and_checked() {
    let server = HelloServer::start(bytes::Bytes::from_static(b"\"12345678\"")).unwrap();
    let target = crate::http::HttpTarget::at(server.address(), "h", "0x1");
    let mut plan = plan(Length::Ops(300));
    plan.workload = Workload::Hello;
    plan.timeout = Duration::from_secs(30);
    let tally = drive(&plan, &target).await.unwrap();
    assert_eq!((tally.done(), tally.failed(), tally.bytes), (300, 0, 3000));
    plan.value_bytes = 11;
    let tally = drive(&plan, &target).await.unwrap();
    assert_eq!(tally.failures.get(&Failure::Named("value of another length")), Some(&300));
}

#[tokio::test]
async fn the_echo_gives_back_what_it_was_sent() {
    let server = crate::limits::echo::EchoServer::start().unwrap();
    let mut plan = plan(Length::Ops(300));
    plan.timeout = Duration::from_secs(30);
    let tally = drive(&plan, &server.target()).await.unwrap();
    assert_eq!((tally.done(), tally.failed()), (300, 0));
}
