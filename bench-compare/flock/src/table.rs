//! The lines of many runs as one Markdown table.

use crate::{Line, Subject, scenario};
use skein_sim::Measure;
use skein_sim::scenario::Target;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Measures that say nothing of who is better, or that iroh-gossip does not tell.
const LEFT_OUT: [Measure; 5] =
    [Measure::DegreeMin, Measure::DegreeMax, Measure::StateBytes, Measure::StateGrowth, Measure::Hops];

type Column = BTreeMap<Subject, BTreeMap<u64, Option<f64>>>;

/// Prints the table; a later line for the same run takes the place of an earlier one.
pub fn print(files: &[PathBuf]) -> Result<(), String> {
    let mut lines: BTreeMap<(String, Subject, u64), Line> = BTreeMap::new();
    for file in files {
        let text =
            std::fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let line: Line =
                serde_json::from_str(line).map_err(|error| format!("{}: {error}", file.display()))?;
            lines.insert((line.scenario.clone(), line.subject, line.seed), line);
        }
    }
    println!("| scenario | measure | target | flock | iroh-gossip |");
    println!("| --- | --- | --- | --- | --- |");
    let mut names: Vec<String> = lines.keys().map(|(name, _, _)| name.clone()).collect();
    names.dedup();
    for name in names {
        let of_scenario: Vec<&Line> = lines.values().filter(|line| line.scenario == name).collect();
        let targets = scenario(&name, false)?.targets;
        let mut measures: Vec<Measure> = Vec::new();
        for (measure, _) in of_scenario.iter().flat_map(|line| &line.values) {
            if !measures.contains(measure) && !LEFT_OUT.contains(measure) {
                measures.push(*measure);
            }
        }
        let wanted = measures.iter().filter(|it| targets.is_empty() || targets.contains_key(it));
        for measure in wanted {
            let column = column(&of_scenario, |line| {
                line.values.iter().find(|(name, _)| name == measure).map(|(_, value)| *value)
            });
            let unit = measure.unit();
            row(&name, measure.text(), unit, targets.get(measure).copied(), &column);
        }
        if targets.contains_key(&Measure::StateBytes) {
            let column = column(&of_scenario, |line| Some(Some(line.state)));
            row(
                &name,
                "state per peer, asked of the allocator",
                "B",
                targets.get(&Measure::StateBytes).copied(),
                &column,
            );
        }
        if targets.contains_key(&Measure::StateGrowth) {
            let column =
                column(&of_scenario, |line| Some(line.state_before.map(|before| line.state - before)));
            row(&name, "growth of it while idle", "B", targets.get(&Measure::StateGrowth).copied(), &column);
        }
    }
    Ok(())
}

fn column(lines: &[&Line], value: impl Fn(&Line) -> Option<Option<f64>>) -> Column {
    let mut column = Column::new();
    for line in lines {
        if let Some(value) = value(line) {
            column.entry(line.subject).or_default().insert(line.seed, value);
        }
    }
    column
}

fn row(scenario: &str, text: &str, unit: &str, target: Option<Target>, column: &Column) {
    let target = match target {
        Some(Target::AtMost(most)) => format!("≤ {most}"),
        Some(Target::AtLeast(least)) => format!("≥ {least}"),
        None => String::new(),
    };
    let cell = |subject| {
        let values = column.get(&subject)?;
        let values: Vec<String> = values.values().map(|value| value.map_or("never".into(), short)).collect();
        Some(values.join(", "))
    };
    let mut theirs = cell(Subject::Iroh).unwrap_or_default();
    if let Some(short) = cell(Subject::IrohShort) {
        theirs += &format!(" (short names: {short})");
    }
    let text = if unit.is_empty() { text.to_owned() } else { format!("{text}, {unit}") };
    println!("| {scenario} | {text} | {target} | {} | {theirs} |", cell(Subject::Flock).unwrap_or_default());
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.4}"),
    }
}
