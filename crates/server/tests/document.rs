//! `docs/HTTP.md` has to name what is served.

const DOCUMENT: &str = include_str!("../../../docs/HTTP.md");

mod support;

use support::{Running, ask};

#[test]
fn the_document_names_every_path_and_every_problem() {
    let server = Running::solo();
    for addr in [server.data, server.admin] {
        let served = ask(addr, "GET", "/openapi.json", &[], b"").json();
        for path in served["paths"].as_object().unwrap().keys() {
            let path = path.replace("{table}", "{id-or-name}").replace("{catalogKey}", "{key}");
            assert!(DOCUMENT.contains(&format!("`{path}")), "{path}");
        }
        let problems = served["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].clone();
        for problem in problems.as_array().unwrap() {
            let name = problem.as_str().unwrap().rsplit(':').next().unwrap();
            assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
        }
    }
}
