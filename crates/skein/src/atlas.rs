//! `skein atlas`: shows which peers hold which share of the rows, and moves them.

use crate::args::{AdminArgs, AtlasArgs, AtlasVerb, Wanted};
use crate::client::{Call, Connection};
use crate::plan::{hosts, plan};
use crate::say;
use crate::signals::Stops;
use crate::status::{connection, fetch, progress_text, unreachable};
use crate::trouble::{Exit, Trouble};
use http::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use skein_model::{Atlas, Cohort, HostId};
use skein_server::status::StatusBody;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

/// Between two looks at a move.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Longest file that can be an atlas.
const ATLAS_BYTES_MAX: u64 = 1 << 20;
/// How long a watch goes on without an answer from the server.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Runs `skein atlas`.
pub async fn run(args: AtlasArgs) -> Result<Exit, Trouble> {
    let what = "cannot work with the atlas";
    let mut admin = connection(&args.admin, what)?;
    match args.verb {
        AtlasVerb::Show => {
            let status = fetch(&mut admin, &args.admin, what).await?;
            say::out(show(&status).trim_end());
            Ok(Exit::Done)
        }
        AtlasVerb::Plan { wanted } => {
            let targets = read_wanted(&wanted)?;
            let status = fetch(&mut admin, &args.admin, what).await?;
            say::out(plan(&status, &targets)?.trim_end());
            Ok(Exit::Done)
        }
        AtlasVerb::Apply { wanted, yes, detach } => {
            let targets = read_wanted(&wanted)?;
            let status = fetch(&mut admin, &args.admin, what).await?;
            say::out(plan(&status, &targets)?.trim_end());
            if !yes && !confirmed()? {
                say::out("nothing changed");
                return Ok(Exit::Done);
            }
            put(&mut admin, &args.admin, &targets, status.atlas_version).await?;
            if detach {
                say::out("the atlas is taken; skein atlas watch shows the move");
                return Ok(Exit::Done);
            }
            watch(&mut admin, &args.admin).await
        }
        AtlasVerb::Watch => watch(&mut admin, &args.admin).await,
        AtlasVerb::Cancel => {
            let status = fetch(&mut admin, &args.admin, what).await?;
            let moving = status.cohorts.iter().filter(|cohort| cohort.origin != cohort.target).count();
            if moving == 0 {
                say::out("nothing is moving");
                return Ok(Exit::Done);
            }
            let origins = status.cohorts.iter().map(|cohort| hosts(&cohort.origin));
            let origins = origins.collect::<Result<Vec<_>, _>>()?;
            put(&mut admin, &args.admin, &origins, status.atlas_version).await?;
            say::out(format_args!("cancelled: {} left where the rows are", say::count(moving, "cohort")));
            Ok(Exit::Done)
        }
    }
}

/// The hosts that each cohort shall have.
fn read_wanted(wanted: &Wanted) -> Result<Vec<BTreeSet<HostId>>, Trouble> {
    let wrong = || Trouble::new(Exit::Config, "cannot read the atlas that is wanted");
    let bytes = match (&wanted.hosts[..], &wanted.file) {
        ([], Some(file)) if file.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            let read = io::stdin().take(ATLAS_BYTES_MAX).read_to_end(&mut bytes);
            read.map_err(|e| wrong().because("read standard input").because_of(&e))?;
            bytes
        }
        ([], Some(file)) => std::fs::read(file)
            .map_err(|e| wrong().because(format!("read {}", file.display())).because_of(&e))?,
        (hosts, _) => json!([{ "hosts": hosts.iter().map(HostId::to_string).collect::<Vec<_>>() }])
            .to_string()
            .into_bytes(),
    };
    let cohorts = Atlas::parse_targets(&bytes)
        .map_err(|e| wrong().because(e).next(r#"write for example [{"hosts":["0x1","0x2","0x3"]}]"#))?;
    Ok(cohorts.iter().map(|cohort: &Cohort| cohort.target().clone()).collect())
}

/// Asks on the terminal whether to go on.
pub fn confirmed() -> Result<bool, Trouble> {
    if !io::stdin().is_terminal() {
        return Err(Trouble::new(Exit::Config, "cannot ask whether to go on")
            .because("standard input is no terminal")
            .next("add --yes, or look with skein atlas plan first"));
    }
    say::out("go on? [y/N]");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|e| Trouble::new(Exit::Failed, "cannot read the answer").because_of(&e))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn put(
    admin: &mut Connection,
    args: &AdminArgs,
    targets: &[BTreeSet<HostId>],
    version: u64,
) -> Result<(), Trouble> {
    let what = "cannot change the atlas";
    let texts = |hosts: &BTreeSet<HostId>| hosts.iter().map(HostId::to_string).collect::<Vec<_>>();
    let body = json!(targets.iter().map(|hosts| json!({ "hosts": texts(hosts) })).collect::<Vec<_>>());
    let call = Call::new(Method::PUT, "/admin/atlas")
        .header("if-match", format!("\"{version}\""))
        .header("content-type", "application/json")
        .body(body.to_string());
    let answer = admin.call(call).await.map_err(|e| {
        unreachable(args, what, &e)
            .next("it may have been taken: skein atlas show tells; then run this again")
    })?;
    if answer.status.is_success() {
        return Ok(());
    }
    let trouble = Trouble::new(Exit::Failed, what).because(answer.explanation());
    Err(if answer.status == http::StatusCode::PRECONDITION_FAILED {
        trouble
            .next("somebody else changed the atlas meanwhile: look at skein atlas show, then run this again")
    } else {
        trouble
    })
}

/// The atlas as a table.
fn show(status: &StatusBody) -> String {
    let mut text = format!("atlas version {}\n", status.atlas_version);
    if status.cohorts.is_empty() {
        text.push_str("no cohorts: rows are not served. skein atlas apply --hosts HOST,… makes the first\n");
    }
    for cohort in &status.cohorts {
        let _ = match cohort.state.as_str() {
            "settled" => writeln!(text, "{:>4}  settled  {}", cohort.index, cohort.target.join(", ")),
            state => writeln!(
                text,
                "{:>4}  {state}  {} -> {}",
                cohort.index,
                cohort.origin.join(", "),
                cohort.target.join(", ")
            ),
        };
    }
    text
}

/// Shows moves until nothing moves. Ends at SIGINT without touching them.
async fn watch(admin: &mut Connection, args: &AdminArgs) -> Result<Exit, Trouble> {
    let mut stops = Stops::listen();
    let mut board = Board::new(io::stderr().is_terminal());
    let mut answered = tokio::time::Instant::now();
    loop {
        let looked = tokio::select! {
            biased;
            exit = stops.next() => {
                board.clear();
                say::out("the move goes on; skein atlas watch shows it, skein atlas cancel takes it back");
                return Ok(exit);
            }
            looked = fetch(admin, args, "cannot watch the move") => looked,
        };
        match looked {
            Ok(status) => {
                answered = tokio::time::Instant::now();
                board.show(&status);
                if status.cohorts.is_empty() {
                    board.clear();
                    say::out("there is no atlas yet: skein atlas apply --hosts HOST,… makes the first");
                    return Ok(Exit::Done);
                }
                if status.cohorts.iter().all(|cohort| cohort.state == "settled") {
                    board.clear();
                    say::out(format_args!("settled: {}", say::count(status.cohorts.len(), "cohort")));
                    return Ok(Exit::Done);
                }
            }
            // A peer may be restarted while we look; the move does not depend on it.
            Err(trouble) if SILENCE_MAX < answered.elapsed() => return Err(trouble),
            Err(_) => {}
        }
        tokio::select! {
            biased;
            exit = stops.next() => {
                board.clear();
                say::out("the move goes on; skein atlas watch shows it, skein atlas cancel takes it back");
                return Ok(exit);
            }
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// A bar for each cohort that moves; where nobody watches a terminal, a line when something changed.
struct Board {
    bars: Option<MultiProgress>,
    shown: BTreeMap<usize, ProgressBar>,
    said: BTreeMap<usize, String>,
}

impl Board {
    fn new(terminal: bool) -> Board {
        Board { bars: terminal.then(MultiProgress::new), shown: BTreeMap::new(), said: BTreeMap::new() }
    }

    fn show(&mut self, status: &StatusBody) {
        for cohort in &status.cohorts {
            let progress = cohort.moving.as_ref().map(progress_text).unwrap_or_default();
            let line = format!("cohort {}: {} {progress}", cohort.index, cohort.state);
            let line = line.trim_end().to_owned();
            let changing = cohort.state != "settled";
            let Some(bars) = &self.bars else {
                let news = self.said.get(&cohort.index) != Some(&line);
                if news && (changing || self.said.contains_key(&cohort.index)) {
                    say::out(&line);
                    self.said.insert(cohort.index, line);
                }
                continue;
            };
            if !changing {
                if let Some(bar) = self.shown.remove(&cohort.index) {
                    bar.finish_with_message(line);
                }
                continue;
            }
            let bar = self.shown.entry(cohort.index).or_insert_with(|| {
                let style = ProgressStyle::with_template("{bar:30} {msg}");
                let bar = bars.add(ProgressBar::new(0));
                style.map_or(bar.clone(), |style| bar.with_style(style))
            });
            if let Some(moving) = &cohort.moving {
                bar.set_length(moving.bytes_total.unwrap_or(0));
                bar.set_position(moving.bytes.min(moving.bytes_total.unwrap_or(0)));
            }
            bar.set_message(line);
        }
    }

    fn clear(&mut self) {
        if let Some(bars) = &self.bars {
            // A terminal that is gone needs no clearing.
            let _ = bars.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(of: &[&[u64]]) -> Vec<BTreeSet<HostId>> {
        of.iter().map(|hosts| hosts.iter().map(|host| HostId(*host)).collect()).collect()
    }

    #[test]
    fn hosts_may_be_given_instead_of_a_file_and_are_checked_alike() {
        let wanted = |hosts: &[u64]| Wanted { file: None, hosts: hosts.iter().map(|h| HostId(*h)).collect() };
        assert_eq!(read_wanted(&wanted(&[1, 2, 3])).unwrap(), targets(&[&[1, 2, 3]]));
        assert!(read_wanted(&wanted(&[1, 2])).unwrap_err().render().contains("odd number"));
        let missing = Wanted { file: Some("/no/such/file".into()), hosts: Vec::new() };
        assert!(read_wanted(&missing).unwrap_err().render().contains("/no/such/file"));
    }
}
