use super::*;
use std::cell::RefCell;

const GROUP: GroupId = GroupId(1);
const HOSTS: [HostId; 3] = [HostId(1), HostId(2), HostId(3)];

fn id() -> TxId {
    "abc".parse().unwrap()
}

fn errand<'a>(id: Option<&'a TxId>, secs: u64) -> Errand<'a> {
    Errand {
        group: GROUP,
        hosts: &HOSTS,
        id,
        deadline: Instant::now() + Duration::from_secs(secs),
        unsure: None,
    }
}

/// Notes whom it asks, and answers by `reply`.
async fn run(
    leaders: &Leaders,
    errand: Errand<'_>,
    reply: impl Fn(HostId, usize) -> Attempt<&'static str>,
) -> (Result<&'static str, CellError>, Vec<u64>) {
    let asked = RefCell::new(Vec::new());
    let answer = leaders
        .ask(errand, |host, _| {
            let turn = asked.borrow().len();
            asked.borrow_mut().push(host.0);
            let attempt = reply(host, turn);
            async move { attempt }
        })
        .await;
    (answer, asked.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_also_to_a_host_that_the_atlas_does_not_name_and_remembered() {
    let leaders = Leaders::new(1);
    let reply = |host: HostId, _| match host.0 {
        9 => Attempt::Done("row"),
        _ => Attempt::Elsewhere(Some(HostId(9))),
    };
    let (answer, asked) = run(&leaders, errand(None, 5), reply).await;
    assert_eq!((answer, asked), (Ok("row"), vec![1, 9]));
    let (_, asked) = run(&leaders, errand(None, 5), reply).await;
    assert_eq!(asked, [9]);
    leaders.keep(&BTreeSet::new());
    assert_eq!(leaders.known(GROUP), None);
}

#[tokio::test(start_paused = true)]
async fn during_an_election_everybody_is_asked_again_and_again_until_one_leads() {
    let leaders = Leaders::new(1);
    let started = Instant::now();
    let reply = |host: HostId, _| match host.0 {
        2 if Duration::from_secs(1) <= started.elapsed() => Attempt::Done("row"),
        _ => Attempt::Elsewhere(None),
    };
    let (answer, asked) = run(&leaders, errand(None, 5), reply).await;
    assert_eq!(answer, Ok("row"));
    // A second at pauses of at most 200 ms and at least 5: neither gave up nor spun.
    assert!((15..200).contains(&asked.len()), "{}", asked.len());
    assert!(started.elapsed() <= Duration::from_millis(1200));
}

#[tokio::test(start_paused = true)]
async fn two_hosts_that_name_each_other_do_not_keep_it_spinning() {
    let leaders = Leaders::new(1);
    let reply = |host: HostId, _| Attempt::Elsewhere(Some(HostId(3 - host.0.min(2))));
    let (answer, asked) = run(&leaders, errand(Some(&id()), 1), reply).await;
    // Nobody did anything, so nothing is unknown.
    assert!(matches!(answer, Err(CellError::Unreachable { .. })), "{answer:?}");
    assert!(asked.len() < 200, "{}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_been_done_and_is_never_answered_is_unknown() {
    let leaders = Leaders::new(1);
    let reply = |host: HostId, turn| match (host.0, turn) {
        (1, 0) => Attempt::Unsure("the connection broke".into()),
        _ => Attempt::NotDone("cannot be reached".into()),
    };
    let id = id();
    let (answer, _) = run(&leaders, errand(Some(&id), 1), reply).await;
    assert_eq!(answer, Err(CellError::Unknown { id, why: "the connection broke".into() }));
    // A read is simply not answered.
    let (answer, _) = run(&leaders, errand(None, 1), reply).await;
    assert!(matches!(answer, Err(CellError::Unreachable { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_hide_that_an_earlier_attempt_may_have_been_carried_out() {
    let leaders = Leaders::new(1);
    let full = || CellError::Full { detail: "no room".into() };
    let reply = |_, turn| match turn {
        0 => Attempt::Unsure("leadership ended".into()),
        _ => Attempt::Final(full()),
    };
    let id = id();
    let (answer, asked) = run(&leaders, errand(Some(&id), 1), reply).await;
    assert!(matches!(answer, Err(CellError::Unknown { .. })), "{answer:?}");
    assert_eq!(asked.len(), 2);
    let (answer, _) = run(&leaders, errand(Some(&id), 1), |_, _| Attempt::Final(full())).await;
    assert_eq!(answer, Err(full()));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_says_nothing_is_left_after_a_while_and_another_is_asked() {
    let leaders = Leaders::new(1);
    leaders.learn(GROUP, HostId(1));
    let asked = RefCell::new(Vec::new());
    let id = id();
    let answer = leaders
        .ask(errand(Some(&id), 10), |host, _| {
            asked.borrow_mut().push(host.0);
            async move {
                if host == HostId(1) {
                    std::future::pending::<()>().await;
                }
                Attempt::Done("row")
            }
        })
        .await;
    assert_eq!(answer, Ok("row"));
    assert_eq!(*asked.borrow(), [1, 2]);
    assert_eq!(leaders.known(GROUP), Some(HostId(2)));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_after_the_deadline() {
    let leaders = Leaders::new(1);
    let (answer, asked) = run(&leaders, errand(None, 0), |_, _| Attempt::Done("late")).await;
    assert!(matches!(answer, Err(CellError::TimedOut { .. })), "{answer:?}");
    assert!(asked.is_empty());
}
