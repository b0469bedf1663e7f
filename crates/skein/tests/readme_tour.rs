//! Runs the README's first command and every block of its tour against the real binary, and compares what comes
//! out. `...` in the README stands for anything; blank space at the end of an answer does not count.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Server, within};

/// One command of the tour and what the README says comes out.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The bodies of the README's blocks of this kind.
fn blocks(readme: &str, kind: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line == format!("```{kind}") {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(body.join("\n"));
        }
    }
    blocks
}

/// `$ ` begins a command, `> ` goes on with it, the rest is what comes out.
fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), expected: String::new() });
            continue;
        }
        let step = steps.last_mut().expect("a block of the tour begins with a command");
        match line.strip_prefix("> ") {
            Some(more) => step.command.push_str(&format!("\n{more}")),
            None => step.expected.push_str(&format!("{line}\n")),
        }
    }
    steps
}

/// Whether `text` is what `pattern` says, where `...` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...");
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn the_wildcard_stands_for_anything_and_nothing_else_does() {
    for (pattern, text) in [("a", "a"), ("a...", "abc"), ("...c", "abc"), ("a...b...c", "a1b2c"), ("...", "")]
    {
        assert!(fits(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in
        [("a", "b"), ("a", "ab"), ("a...b", "ac"), ("a...b...c", "ac"), ("", "x"), ("ab...b", "ab")]
    {
        assert!(!fits(pattern, text), "{pattern} {text}");
    }
}

#[test]
fn every_block_of_the_tour_does_what_the_readme_says() {
    let root = repository();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let start = blocks(&readme, "sh").into_iter().find(|block| block.contains(" serve ")).unwrap();
    let words: Vec<&str> = start.split_whitespace().collect();
    let serve = words.iter().position(|word| *word == "serve").unwrap();
    let (flags, dir) = words[serve + 1..].split_at(words.len() - serve - 2);
    assert_eq!(dir, ["./skein-data"]);
    // Files of the repository, named from its root.
    let flags: Vec<String> =
        flags.iter().map(|f| f.replace("=data/", &format!("={}/data/", root.display()))).collect();

    let scratch = tempfile::tempdir().unwrap();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start(&flags, &scratch.path().join("skein-data"));
    server.wait_for_line("imported 7884 rows");

    let steps: Vec<Step> = blocks(&readme, "console").iter().flat_map(|block| steps(block)).collect();
    assert!(10 < steps.len(), "the tour has shrunk to {} steps", steps.len());
    let outputs = run_in_one_shell(&root, &server, &steps);
    assert_eq!(outputs.len(), steps.len(), "the shell ended early; last output: {:?}", outputs.last());
    let wrong: Vec<String> = steps
        .iter()
        .zip(&outputs)
        .filter(|(step, output)| !fits(step.expected.trim_end(), output.trim_end()))
        .map(|(step, output)| format!("$ {}\nexpected:\n{}\nfound:\n{output}\n", step.command, step.expected))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop();
}

/// Runs the commands as somebody would who types them one after the other, variables and all.
fn run_in_one_shell(root: &Path, server: &Server, steps: &[Step]) -> Vec<String> {
    const MARK: &str = "--- next step of the tour ---";
    let bin = Path::new(env!("CARGO_BIN_EXE_skein")).parent().unwrap();
    let mut script = String::from("exec 2>&1\n");
    for step in steps {
        let command = step
            .command
            .replace("localhost:7070", &server.http)
            .replace("localhost:9990", &server.admin)
            .replace("$PWD/target/release", &bin.display().to_string());
        script.push_str(&format!("{command}\nprintf '\\n{MARK}\\n'\n"));
    }
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut shell = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(root)
        .env("SKEIN_URL", server.url())
        .env("SKEIN_ADMIN_URL", server.admin_url())
        .stdin(Stdio::null())
        .stdout(out.reopen().unwrap())
        .spawn()
        .unwrap();
    within(|| shell.try_wait().unwrap());
    let text = std::fs::read_to_string(out.path()).unwrap();
    let mut outputs: Vec<String> =
        text.split(&format!("\n{MARK}\n")).map(|output| output.trim_end().to_owned()).collect();
    // What follows the last mark.
    assert_eq!(outputs.pop().as_deref(), Some(""));
    outputs
}
