//! `skein drain`, `skein rejoin` and `skein forget`: one peer at a time, before and after work on its machine.

use crate::args::{DrainArgs, ForgetArgs, RejoinArgs};
use crate::atlas::confirmed;
use crate::client::{Answer, Call, Connection};
use crate::say;
use crate::signals::Stops;
use crate::status::{connection, fetch, unreachable};
use crate::trouble::{Exit, Trouble};
use http::{Method, StatusCode};
use skein_server::status::{PeerBody, StatusBody};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a peer that hands over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs `skein drain`.
pub async fn drain(args: DrainArgs) -> Result<Exit, Trouble> {
    let what = "cannot drain the peer";
    let mut admin = connection(&args.admin, what)?;
    let answer = admin.call(Call::new(Method::POST, "/admin/drain")).await;
    done(answer.map_err(|e| unreachable(&args.admin, what, &e))?, what)?;
    if !args.wait {
        say::out(
            "the peer hands over what it leads; skein status shows how far it is, skein rejoin takes it back",
        );
        return Ok(Exit::Done);
    }
    let mut stops = Stops::listen();
    let deadline = Instant::now() + args.within.0;
    let mut said = String::new();
    loop {
        let held = Held::of(&fetch(&mut admin, &args.admin, what).await?);
        if held.is_nothing() {
            say::out("drained: the peer leads nothing, and can be stopped without anybody waiting");
            return Ok(Exit::Done);
        }
        if held.only_here() {
            return Err(Trouble::new(Exit::Failed, "the peer cannot hand over everything")
                .because(held.told())
                .next("move them first, skein atlas apply; or skein rejoin, to have it lead again"));
        }
        if deadline <= Instant::now() {
            return Err(Trouble::new(Exit::Failed, format!("the peer is not drained after {}", args.within))
                .because(held.told())
                .next("skein status shows which replicas are behind or missing; run this again to wait on"));
        }
        let told = held.told();
        if told != said {
            say::out(&told);
            said = told;
        }
        tokio::select! {
            biased;
            exit = stops.next() => {
                say::out("the peer goes on handing over; skein rejoin takes it back");
                return Ok(exit);
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Runs `skein rejoin`.
pub async fn rejoin(args: RejoinArgs) -> Result<Exit, Trouble> {
    let what = "cannot make the peer rejoin";
    let mut admin = connection(&args.admin, what)?;
    let answer = admin.call(Call::new(Method::POST, "/admin/rejoin")).await;
    done(answer.map_err(|e| unreachable(&args.admin, what, &e))?, what)?;
    say::out("the peer leads again; what it should lead comes back to it by and by");
    Ok(Exit::Done)
}

/// Runs `skein forget`.
pub async fn forget(args: ForgetArgs) -> Result<Exit, Trouble> {
    let what = format!("cannot forget {}", args.host);
    let mut admin = connection(&args.admin, &what)?;
    let status = fetch(&mut admin, &args.admin, &what).await?;
    let is_up = |peer: &&PeerBody| peer.host == args.host.to_string() && peer.connected;
    if let Some(peer) = status.peers.iter().find(is_up) {
        return Err(Trouble::new(Exit::Failed, what)
            .because(format!("{} is up and connected, so its directory is not lost", peer.host))
            .next("stop it first if its directory shall be given up all the same; look at skein status"));
    }
    say::out(format_args!(
        "the directory that {} had is given up for good: if it still exists, it must never be started again",
        args.host
    ));
    if !args.yes && !confirmed()? {
        say::out("nothing changed");
        return Ok(Exit::Done);
    }
    if ask_to_forget(&mut admin, &args, &what).await? {
        say::out(format_args!(
            "forgotten: start {} with an empty directory (skein serve --init --host {} --hail …), and it is filled",
            args.host, args.host
        ));
    } else {
        say::out(format_args!("the cell does not know a directory of {}; nothing changed", args.host));
    }
    Ok(Exit::Done)
}

async fn ask_to_forget(admin: &mut Connection, args: &ForgetArgs, what: &str) -> Result<bool, Trouble> {
    #[derive(serde::Deserialize)]
    struct Forgotten {
        forgotten: bool,
    }
    let call = Call::new(Method::POST, format!("/admin/forget?host={}", args.host));
    let answer = admin.call(call).await.map_err(|e| {
        unreachable(&args.admin, what, &e).next("it may have been done: run this again, which does no harm")
    })?;
    let answer = done(answer, what)?;
    serde_json::from_slice::<Forgotten>(&answer.body).map(|body| body.forgotten).map_err(|e| {
        Trouble::new(Exit::Failed, what).because(format!("the server's answer has another form: {e}"))
    })
}

fn done(answer: Answer, what: &str) -> Result<Answer, Trouble> {
    match answer.status {
        StatusCode::OK => Ok(answer),
        _ => Err(Trouble::new(Exit::Failed, what).because(answer.explanation())),
    }
}

/// What a peer still leads.
struct Held {
    /// Cohorts that somebody else could lead.
    shared: Vec<usize>,
    /// Cohorts of this peer alone.
    alone: Vec<usize>,
    /// Whether it leads the catalog, and others keep it too.
    catalog: bool,
}

impl Held {
    fn of(status: &StatusBody) -> Held {
        let me = &status.host;
        let led = status.cohorts.iter().filter(|cohort| cohort.leader.as_ref() == Some(me));
        let (alone, shared): (Vec<_>, Vec<_>) = led.partition(|cohort| {
            // While a cohort moves away from this peer, there will soon be somebody else.
            cohort.origin.len() == 1 && cohort.target.iter().all(|host| host == me)
        });
        let catalog = &status.catalog;
        let indices =
            |cohorts: Vec<&skein_server::status::CohortBody>| cohorts.iter().map(|c| c.index).collect();
        Held {
            shared: indices(shared),
            alone: indices(alone),
            catalog: catalog.leader.as_ref() == Some(me) && 1 < catalog.members.len(),
        }
    }

    fn is_nothing(&self) -> bool {
        self.shared.is_empty() && self.alone.is_empty() && !self.catalog
    }

    fn only_here(&self) -> bool {
        self.shared.is_empty() && !self.catalog && !self.alone.is_empty()
    }

    fn told(&self) -> String {
        let mut parts = Vec::new();
        if !self.shared.is_empty() {
            parts.push(format!("it leads {}", cohorts(&self.shared)));
        }
        if self.catalog {
            parts.push("it leads the catalog".to_owned());
        }
        if !self.alone.is_empty() {
            parts.push(format!("nobody else has the rows of {}", cohorts(&self.alone)));
        }
        parts.join("; ")
    }
}

/// A few of them by their position, of many the number.
fn cohorts(indices: &[usize]) -> String {
    match indices {
        [one] => format!("cohort {one}"),
        few if few.len() <= 8 => {
            let words: Vec<String> = few.iter().map(usize::to_string).collect();
            format!("cohorts {}", words.join(", "))
        }
        many => format!("{} cohorts", many.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn held(cohorts: serde_json::Value, catalog_leader: &str, members: &[&str]) -> Held {
        let members: Vec<_> =
            members.iter().map(|host| json!({"host": host, "peerAddr": null, "httpAddr": null})).collect();
        let status: StatusBody = serde_json::from_value(json!({
            "cell": "0xC", "host": "0x1", "atlasVersion": 4, "peers": [], "cohorts": cohorts,
            "catalog": {"version": 9, "schemaVersion": 1, "term": 1, "commitIndex": null,
                        "leader": catalog_leader, "members": members}
        }))
        .unwrap();
        Held::of(&status)
    }

    fn cohort(index: usize, leader: &str, hosts: &[&str]) -> serde_json::Value {
        json!({"index": index, "group": index + 1, "state": "settled", "origin": hosts, "target": hosts,
            "leader": leader, "preferred": null, "term": 1, "committed": 1, "replicas": [], "bytes": 1,
            "moving": null, "failure": null})
    }

    #[test]
    fn a_peer_that_leads_nothing_is_drained_whatever_it_holds() {
        let held = held(json!([cohort(0, "0x2", &["0x1", "0x2", "0x3"])]), "0x2", &["0x1", "0x2", "0x3"]);
        assert!(held.is_nothing() && !held.only_here());
    }

    #[test]
    fn what_is_left_is_told_and_what_nobody_else_has_ends_the_wait() {
        let three = ["0x1", "0x2", "0x3"];
        let both = held(json!([cohort(0, "0x1", &three), cohort(1, "0x1", &["0x1"])]), "0x1", &three);
        assert!(!both.is_nothing() && !both.only_here());
        assert_eq!(
            both.told(),
            "it leads cohort 0; it leads the catalog; nobody else has the rows of cohort 1"
        );
        let alone = held(json!([cohort(1, "0x1", &["0x1"])]), "0x1", &["0x1"]);
        assert!(alone.only_here());
    }

    #[test]
    fn many_cohorts_are_counted_rather_than_listed() {
        assert_eq!(cohorts(&[7]), "cohort 7");
        assert_eq!(cohorts(&[1, 2]), "cohorts 1, 2");
        assert_eq!(cohorts(&[0; 9]), "9 cohorts");
    }
}
