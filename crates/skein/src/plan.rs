//! What a new atlas would move: rows and bytes of each cohort, and who leads before and after.

use crate::say::count;
use crate::status::size;
use crate::trouble::{Exit, Trouble};
use skein_cell::leaders::preferred_leaders;
use skein_model::{Atlas, Cohort, HostId};
use skein_server::status::{CohortBody, PeerBody, StatusBody};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The IDs in a server's answer.
pub fn hosts(texts: &[String]) -> Result<BTreeSet<HostId>, Trouble> {
    texts.iter().map(|text| host(text)).collect()
}

fn host(text: &str) -> Result<HostId, Trouble> {
    text.parse().map_err(|e| {
        Trouble::new(Exit::Failed, "cannot read the server's status").because(format!("a host's ID: {e}"))
    })
}

/// What putting these targets would move, for people, from what the status knows.
pub fn plan(status: &StatusBody, targets: &[BTreeSet<HostId>]) -> Result<String, Trouble> {
    let mut text = String::new();
    let after = leaders_after(status, targets)?;
    if status.cohorts.is_empty() {
        let _ = writeln!(text, "the first atlas: {}, nothing to move", count(targets.len(), "cohort"));
        for (index, (hosts, leader)) in targets.iter().zip(&after).enumerate() {
            let _ = writeln!(text, "{index:>4}  {}{}", list(hosts), led_by(None, *leader));
        }
        text.push_str(&obstacles(status, targets)?);
        return Ok(text);
    }
    let mut sum = Sum::default();
    // A number of cohorts that the server would refuse is its to refuse.
    for index in 0..status.cohorts.len().max(targets.len()) {
        let now = &status.cohorts[index % status.cohorts.len()];
        let at = index % targets.len();
        line(&mut text, &mut sum, index, now, &targets[at], after[at])?;
    }
    if text.is_empty() {
        return Ok("nothing to change\n".to_owned());
    }
    let least = if sum.unknown { "at least " } else { "about " };
    let _ = writeln!(
        text,
        "{}, {least}{} and {} rows to send, {} to hand over",
        if sum.copies == 1 { "1 copy".to_owned() } else { format!("{} copies", sum.copies) },
        size(sum.bytes),
        sum.rows,
        count(sum.leaders, "leader")
    );
    let mut before = Vec::new();
    for cohort in &status.cohorts {
        before.push(cohort.leader.as_deref().map(host).transpose()?);
    }
    let _ = writeln!(text, "leads now:   {}", tally(&before));
    let _ = writeln!(text, "leads after: {}", tally(&after));
    text.push_str(&obstacles(status, targets)?);
    Ok(text)
}

/// What all cohorts come to.
#[derive(Default)]
struct Sum {
    copies: u64,
    bytes: u64,
    rows: u64,
    leaders: usize,
    /// Whether some leader did not say how much its cohort has.
    unknown: bool,
}

/// Adds what happens to one cohort, if anything does.
fn line(
    text: &mut String,
    sum: &mut Sum,
    index: usize,
    now: &CohortBody,
    target: &BTreeSet<HostId>,
    leader: Option<HostId>,
) -> Result<(), Trouble> {
    let origin = hosts(&now.origin)?;
    if hosts(&now.target)? == *target {
        return Ok(());
    }
    if origin == *target {
        let _ = writeln!(text, "{index:>4}  back to {}: the move is cancelled", list(target));
        return Ok(());
    }
    let added: BTreeSet<HostId> = target.difference(&origin).copied().collect();
    let _ = write!(text, "{index:>4}  {} -> {}", list(&origin), list(target));
    if !added.is_empty() {
        let copies = added.len() as u64;
        sum.copies += copies;
        if let (Some(bytes), Some(rows)) = (now.bytes, now.rows) {
            sum.bytes += bytes * copies;
            sum.rows += rows * copies;
            let _ = write!(text, "; about {} and {rows} rows to each of {}", size(bytes), list(&added));
        } else {
            sum.unknown = true;
            let _ = write!(text, "; an unknown size to each of {}", list(&added));
        }
    }
    let before = now.leader.as_deref().map(host).transpose()?;
    if before.is_some_and(|leader| !target.contains(&leader)) {
        sum.leaders += 1;
    }
    text.push_str(&led_by(before, leader));
    text.push('\n');
    Ok(())
}

/// Who leads a cohort, and who will.
fn led_by(before: Option<HostId>, after: Option<HostId>) -> String {
    match (before, after) {
        (Some(before), Some(after)) if before == after => format!("; led by {before} throughout"),
        (Some(before), Some(after)) => format!("; led by {before}, then {after}"),
        (None, Some(after)) => format!("; to be led by {after}"),
        (Some(before), None) => format!("; led by {before}, and then by nobody who is well"),
        (None, None) => String::new(),
    }
}

/// Who leads when all is done: what every peer computes, given who is well now.
fn leaders_after(status: &StatusBody, targets: &[BTreeSet<HostId>]) -> Result<Vec<Option<HostId>>, Trouble> {
    let cohorts = targets.iter().map(|hosts| Cohort::Settled { hosts: hosts.clone() }).collect();
    let those = |wanted: fn(&PeerBody) -> bool| {
        status.peers.iter().filter(|peer| wanted(peer)).map(|peer| host(&peer.host)).collect::<Result<_, _>>()
    };
    let (draining, unwell) = (those(|peer| peer.draining)?, those(|peer| peer.health != "healthy")?);
    Ok(preferred_leaders(&Atlas { version: status.atlas_version, cohorts }, &draining, &unwell))
}

/// How many cohorts each host leads.
fn tally(leaders: &[Option<HostId>]) -> String {
    let mut led: BTreeMap<Option<HostId>, usize> = BTreeMap::new();
    for leader in leaders {
        *led.entry(*leader).or_default() += 1;
    }
    let told = led.iter().map(|(host, count)| match host {
        Some(host) => format!("{host} {count}"),
        None => format!("nobody known {count}"),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// What the new atlas would wait for, or be refused for.
fn obstacles(status: &StatusBody, targets: &[BTreeSet<HostId>]) -> Result<String, Trouble> {
    let mut text = String::new();
    let (now, wanted) = (status.cohorts.len(), targets.len());
    if now != 0 && now != wanted {
        let _ = writeln!(
            text,
            "it will be refused: the atlas has {}, and this release keeps that number",
            count(now, "cohort")
        );
    }
    let mut peers = BTreeMap::new();
    for peer in &status.peers {
        peers.insert(host(&peer.host)?, peer);
    }
    for wanted in targets.iter().flatten().collect::<BTreeSet<_>>() {
        let _ = match peers.get(wanted) {
            None => writeln!(
                text,
                "{wanted} is not known: start it with --hail first, and see that skein status shows it"
            ),
            Some(peer) if peer.health != "healthy" => {
                writeln!(text, "{wanted} is {}: what is to be on it waits for it", peer.health)
            }
            Some(_) => Ok(()),
        };
    }
    Ok(text)
}

fn list(hosts: &BTreeSet<HostId>) -> String {
    hosts.iter().map(HostId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "0x0000000000000001";
    const B: &str = "0x0000000000000002";
    const C: &str = "0x0000000000000003";
    const D: &str = "0x0000000000000004";

    fn peer(host: &str, health: &str, draining: bool) -> serde_json::Value {
        json!({"host": host, "isMe": false, "health": health, "connected": true, "draining": draining,
            "cohorts": 0, "leads": 0})
    }

    fn status(cohorts: serde_json::Value) -> StatusBody {
        let peers = [A, B, C, D].map(|host| peer(host, "healthy", false));
        with_peers(cohorts, json!(peers))
    }

    fn with_peers(cohorts: serde_json::Value, peers: serde_json::Value) -> StatusBody {
        serde_json::from_value(json!({
            "cell": "0x1", "host": A, "atlasVersion": 4, "peers": peers, "cohorts": cohorts,
            "catalog": {"version": 9, "schemaVersion": 1, "term": 1, "members": []}
        }))
        .unwrap()
    }

    fn cohort(index: usize, state: &str, origin: &[&str], target: &[&str]) -> serde_json::Value {
        json!({"index": index, "group": index + 1, "state": state, "origin": origin, "target": target,
            "leader": origin[0], "term": 1, "committed": 1, "replicas": [], "bytes": 2048, "rows": 12})
    }

    fn targets(of: &[&[u64]]) -> Vec<BTreeSet<HostId>> {
        of.iter().map(|hosts| hosts.iter().map(|host| HostId(*host)).collect()).collect()
    }

    #[test]
    fn a_plan_tells_copies_rows_bytes_and_leaders() {
        let now = status(json!([
            cohort(0, "settled", &[A], &[A]),
            cohort(1, "settled", &[A, B, C], &[A, B, C]),
            cohort(2, "moving", &[A], &[B]),
            cohort(3, "settled", &[D], &[D]),
        ]));
        let text = plan(&now, &targets(&[&[1, 2, 3], &[2, 3, 4], &[1], &[4]])).unwrap();
        for part in [
            &format!("about 2.0KiB and 12 rows to each of {B}, {C}; led by {A}, then {C}\n"),
            &format!("to each of {D}; led by {A}, then {B}\n"),
            "the move is cancelled",
            "3 copies, about 6.0KiB and 36 rows to send, 1 leader to hand over",
            &format!("leads now:   {A} 3, {D} 1\n"),
            &format!("leads after: {A} 1, {B} 1, {C} 1, {D} 1\n"),
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("   3  ") && !text.contains("refused"), "{text}");
        assert_eq!(plan(&now, &targets(&[&[1], &[1, 2, 3], &[2], &[4]])).unwrap(), "nothing to change\n");
    }

    #[test]
    fn whoever_drains_is_not_planned_to_lead() {
        let peers = json!([peer(A, "healthy", true), peer(B, "healthy", false), peer(C, "healthy", false)]);
        let now = with_peers(json!([cohort(0, "settled", &[A], &[A])]), peers);
        let text = plan(&now, &targets(&[&[1, 2, 3]])).unwrap();
        assert!(text.contains(&format!("led by {A}, then {B}")), "{text}");
    }

    #[test]
    fn hosts_that_are_away_and_numbers_that_will_be_refused_are_told_beforehand() {
        let peers = json!([peer(A, "healthy", false), peer(B, "missing", false)]);
        let now = with_peers(json!([cohort(0, "settled", &[A], &[A])]), peers);
        let text = plan(&now, &targets(&[&[1, 2, 3], &[1]])).unwrap();
        assert!(text.contains("the atlas has 1 cohort, and this release keeps that number"), "{text}");
        assert!(text.contains(&format!("{B} is missing")), "{text}");
        assert!(text.contains(&format!("{C} is not known: start it with --hail")), "{text}");
    }

    #[test]
    fn the_first_atlas_moves_nothing_and_tells_who_will_lead() {
        let text = plan(&status(json!([])), &targets(&[&[1]])).unwrap();
        assert!(text.contains("nothing to move") && text.contains(&format!("to be led by {A}")), "{text}");
    }

    #[test]
    fn a_size_that_nobody_told_makes_the_sum_a_least() {
        let mut silent = cohort(0, "settled", &[A], &[A]);
        silent["bytes"] = serde_json::Value::Null;
        let now = status(json!([silent, cohort(1, "settled", &[A], &[A])]));
        let text = plan(&now, &targets(&[&[1, 2, 3], &[1, 2, 3]])).unwrap();
        assert!(text.contains("an unknown size"), "{text}");
        assert!(text.contains("4 copies, at least 4.0KiB and 24 rows to send"), "{text}");
    }
}
