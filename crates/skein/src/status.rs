//! `skein status`: peers, cohorts, moves and the catalog, as one peer sees them.

use crate::args::{AdminArgs, StatusArgs};
use crate::client::{Call, Connection, Target};
use crate::say;
use crate::trouble::{Exit, Trouble};
use http::Method;
use skein_server::status::{CohortBody, MoveBody, PeerBody, StatusBody};
use std::fmt::Write as _;

/// Runs `skein status`.
pub async fn run(args: StatusArgs) -> Result<Exit, Trouble> {
    let mut admin = connection(&args.admin, "cannot tell the status")?;
    if args.json {
        let answer = admin.call(Call::new(Method::GET, "/admin/status")).await;
        let answer = answer.map_err(|e| unreachable(&args.admin, "cannot tell the status", &e))?;
        if !answer.status.is_success() {
            return Err(Trouble::new(Exit::Failed, "cannot tell the status").because(answer.explanation()));
        }
        say::out(String::from_utf8_lossy(&answer.body));
    } else {
        let status = fetch(&mut admin, &args.admin, "cannot tell the status").await?;
        say::out(render(&status).trim_end());
    }
    Ok(Exit::Done)
}

/// A connection to the admin port that the arguments name, opened when it is first used.
pub fn connection(admin: &AdminArgs, what: &str) -> Result<Connection, Trouble> {
    let target: Target = admin.admin_url.parse().map_err(|e| Trouble::new(Exit::Config, what).because(e))?;
    Ok(Connection::new(target))
}

/// Trouble for a server that gave no answer.
pub fn unreachable(admin: &AdminArgs, what: &str, error: &(dyn std::error::Error + 'static)) -> Trouble {
    Trouble::new(Exit::Failed, what)
        .because_of(error)
        .next(format!("is a server's admin port at {}? --admin-url names another", admin.admin_url))
}

/// The status as the server has it now.
pub async fn fetch(admin: &mut Connection, args: &AdminArgs, what: &str) -> Result<StatusBody, Trouble> {
    let answer =
        admin.call(Call::new(Method::GET, "/admin/status")).await.map_err(|e| unreachable(args, what, &e))?;
    if !answer.status.is_success() {
        return Err(Trouble::new(Exit::Failed, what).because(answer.explanation()));
    }
    serde_json::from_slice(&answer.body).map_err(|e| {
        Trouble::new(Exit::Failed, what)
            .because(format!("the server's status has another form: {e}"))
            .next("use the skein of the same release as the server")
    })
}

/// The status for people.
fn render(status: &StatusBody) -> String {
    let mut text = String::new();
    let settled = status.cohorts.iter().filter(|cohort| cohort.state == "settled").count();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "cell {}, atlas version {}: {}, {settled} settled",
        status.cell,
        status.atlas_version,
        say::count(status.cohorts.len(), "cohort")
    );
    let _ = writeln!(text, "asked of {}\n", status.host);
    let mut rows = vec![row(["PEER", "HEALTH", "COHORTS", "LEADS", "FREE", "HTTP", "PEERS", "BUILD"])];
    rows.extend(status.peers.iter().map(peer));
    text.push_str(&columns(&rows));
    if !status.cohorts.is_empty() {
        text.push('\n');
        let mut rows =
            vec![row(["COHORT", "STATE", "LEADER", "TERM", "COMMITTED", "SIZE", "ROWS", "REPLICAS"])];
        rows.extend(status.cohorts.iter().map(cohort));
        text.push_str(&columns(&rows));
    }
    for cohort in &status.cohorts {
        if let Some(progress) = &cohort.moving {
            let _ = writeln!(text, "cohort {} is moving: {}", cohort.index, progress_text(progress));
        }
        if let Some(failure) = &cohort.failure {
            let _ = writeln!(text, "cohort {} has failed on {}: {failure}", cohort.index, status.host);
        }
    }
    let catalog = &status.catalog;
    let members: Vec<&str> = catalog.members.iter().map(|member| member.host.as_str()).collect();
    let _ = match (catalog.version, &catalog.leader) {
        (0, _) => writeln!(text, "\nno catalog: PUT /atlas founds one, or start a first server with --solo"),
        (version, Some(leader)) => {
            writeln!(text, "\ncatalog version {version} on {}, led by {leader}", members.join(", "))
        }
        (version, None) => {
            writeln!(text, "\ncatalog version {version} on {}; its leader is not known", members.join(", "))
        }
    };
    text
}

fn row(cells: [&str; 8]) -> [String; 8] {
    cells.map(str::to_owned)
}

fn peer(peer: &PeerBody) -> [String; 8] {
    let mut health = peer.health.clone();
    if !peer.connected && peer.health == "healthy" {
        health.push_str(", no link");
    }
    if peer.draining {
        health.push_str(", draining");
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        format!("{}{}", peer.host, if peer.is_me { " *" } else { "" }),
        health,
        peer.cohorts.to_string(),
        peer.leads.to_string(),
        peer.disk_free_bytes.map_or_else(|| "-".to_owned(), size),
        or_dash(&peer.http_addr),
        or_dash(&peer.peer_addr),
        or_dash(&peer.build),
    ]
}

fn cohort(cohort: &CohortBody) -> [String; 8] {
    let mut replicas = String::new();
    for replica in &cohort.replicas {
        let comma = if replicas.is_empty() { "" } else { ", " };
        let _ = write!(replicas, "{comma}{}", replica.host);
        match (replica.votes, replica.lag) {
            (true, None | Some(0)) => {}
            (true, Some(lag)) => drop(write!(replicas, " ({lag} behind)")),
            (false, _) if let Some(copy) = &replica.copy => drop(write!(
                replicas,
                " (being sent {} of {} rows)",
                copy.rows,
                copy.rows_total.max(copy.rows)
            )),
            (false, Some(lag)) => drop(write!(replicas, " (catching up, {lag} behind)")),
            (false, None) => replicas.push_str(" (catching up)"),
        }
    }
    if replicas.is_empty() {
        // Its leader could not be asked: what the atlas says is all there is.
        replicas = cohort.target.join(", ");
    }
    [
        cohort.index.to_string(),
        cohort.state.clone(),
        cohort.leader.clone().unwrap_or_else(|| "none".to_owned()),
        cohort.term.to_string(),
        cohort.committed.to_string(),
        cohort.bytes.map_or_else(|| "-".to_owned(), size),
        cohort.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
        replicas,
    ]
}

/// How far a move is, in words.
pub fn progress_text(progress: &MoveBody) -> String {
    let mut text = match (progress.bytes, progress.bytes_total) {
        (0, None | Some(0)) => "nothing copied yet".to_owned(),
        (bytes, Some(total)) if bytes <= total => format!("{} of {}", size(bytes), size(total)),
        (bytes, _) => size(bytes),
    };
    match (progress.rows, progress.rows_total) {
        (0, None | Some(0)) => {}
        (rows, Some(total)) if rows <= total => drop(write!(text, ", {rows} of {total} rows")),
        (rows, _) => drop(write!(text, ", {rows} rows")),
    }
    if let Some(pace) = progress.bytes_per_second {
        let _ = write!(text, ", {}/s", size(pace));
    }
    if let Some(seconds) = progress.seconds_left {
        let _ = write!(
            text,
            ", about {} left",
            humantime::format_duration(std::time::Duration::from_secs(seconds))
        );
    }
    if let Some(waits_for) = &progress.waits_for {
        let _ = write!(text, "; {waits_for}");
    }
    text
}

/// A size for people: rounded, unlike that of a setting.
pub fn size(bytes: u64) -> String {
    let mut left = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{left:.1}{unit}") };
        }
        left /= 1024.0;
    }
    format!("{left:.1}TiB")
}

/// Cells in columns, each as wide as its widest cell.
fn columns(rows: &[[String; 8]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> StatusBody {
        serde_json::from_value(json!({
            "cell": "0x00000000000000CE", "host": "0x0000000000000001", "atlasVersion": 4,
            "peers": [
                {"host": "0x0000000000000001", "store": null, "isMe": true, "health": "healthy", "connected": true,
                 "peerAddr": "a:6278", "httpAddr": "a:7070", "build": "0.1.0", "draining": false, "seen": 4,
                 "diskFreeBytes": 3221225472u64, "cohorts": 1, "leads": 1},
                {"host": "0x0000000000000002", "store": null, "isMe": false, "health": "missing", "connected": false,
                 "peerAddr": null, "httpAddr": null, "build": null, "draining": true, "seen": null,
                 "diskFreeBytes": null, "cohorts": 1, "leads": 0}
            ],
            "cohorts": [
                {"index": 0, "group": 1, "state": "moving", "origin": ["0x0000000000000001"],
                 "target": ["0x0000000000000002"], "leader": "0x0000000000000001", "preferred": null, "term": 2,
                 "committed": 77, "replicas": [
                    {"host": "0x0000000000000001", "store": "0x01", "votes": true, "lag": 0},
                    {"host": "0x0000000000000002", "store": "0x02", "votes": false, "lag": 70}],
                 "bytes": 1536, "rows": 31, "moving": {"bytes": 512, "bytesTotal": 1536, "rows": 10, "rowsTotal": 30, "bytesPerSecond": 11,
                 "secondsLeft": 90, "waitsFor": null}, "failure": null}
            ],
            "catalog": {"version": 9, "schemaVersion": 1, "term": 1, "commitIndex": 9, "leader": "0x0000000000000001",
                        "members": [{"host": "0x0000000000000001", "peerAddr": null, "httpAddr": null}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_status_tells_who_is_missing_what_moves_and_who_leads() {
        let text = render(&status());
        for part in [
            "1 cohort, 0 settled",
            "0x0000000000000001 *  healthy",
            "missing, draining",
            "3.0GiB",
            "0x0000000000000002 (catching up, 70 behind)",
            "cohort 0 is moving: 512B of 1.5KiB, 10 of 30 rows, 11B/s, about 1m 30s left",
            "catalog version 9 on 0x0000000000000001, led by 0x0000000000000001",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn sizes_are_rounded_for_people() {
        assert_eq!((size(0), size(1023), size(1024)), ("0B".into(), "1023B".into(), "1.0KiB".into()));
        assert_eq!(size(u64::MAX), "16777216.0TiB");
    }
}
