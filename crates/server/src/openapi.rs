//! `/openapi.json`, built from the route table, so that it lists what is served and nothing else.

use crate::problem::Kind;
use crate::route::{Port, ROUTES, Route, RouteSpec, Verb};
use serde_json::{Map, Value, json};

/// The OpenAPI document of a port, as JSON text.
pub(crate) fn document(port: Port) -> String {
    let mut paths = Map::new();
    for spec in ROUTES.iter().filter(|spec| spec.ports.contains(&port)) {
        for path in spec.paths {
            paths.insert((*path).to_owned(), path_item(spec, path));
        }
    }
    let title = match port {
        Port::Data => "Skein: rows, scans and batches",
        Port::Admin => "Skein: administration",
    };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A distributed, transactional key-value database. docs/HTTP.md tells the whole contract.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas(), "parameters": parameters() },
    })
    .to_string()
}

fn path_item(spec: &RouteSpec, path: &str) -> Value {
    let mut item = Map::new();
    let in_path: Vec<Value> = ["table", "name", "key", "catalogKey"]
        .iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| reference("parameters", name))
        .collect();
    if !in_path.is_empty() {
        item.insert("parameters".to_owned(), Value::Array(in_path));
    }
    for verb in spec.verbs.iter().chain([&Verb::Options]) {
        item.insert(verb.name().to_ascii_lowercase(), operation(spec.route, *verb));
    }
    Value::Object(item)
}

fn operation(route: Route, verb: Verb) -> Value {
    let facts = facts(route, verb);
    let mut responses = Map::new();
    for (status, what) in facts.answers {
        let mut response = json!({ "description": what });
        if let (200, Some(media)) = (status, facts.media) {
            response["content"] = content(media, facts.schema);
        }
        responses.insert(status.to_string(), response);
    }
    responses.insert(
        "default".to_owned(),
        json!({
            "description": "What went wrong.",
            "content": content("application/problem+json", Some("Problem")),
        }),
    );
    let mut operation = json!({ "summary": facts.summary, "responses": responses });
    if !facts.parameters.is_empty() {
        operation["parameters"] =
            facts.parameters.iter().map(|name| reference("parameters", name)).collect::<Vec<_>>().into();
    }
    if let Some((media, schema)) = facts.body {
        operation["requestBody"] = json!({ "required": true, "content": content(media, Some(schema)) });
    }
    operation
}

fn content(media: &str, schema: Option<&str>) -> Value {
    json!({ media: { "schema": schema.map_or(json!({}), |name| reference("schemas", name)) } })
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// What the document says about one method of one route.
struct Facts {
    summary: &'static str,
    parameters: Vec<&'static str>,
    body: Option<(&'static str, &'static str)>,
    answers: Vec<(u16, &'static str)>,
    media: Option<&'static str>,
    schema: Option<&'static str>,
}

const READ: [&str; 6] = [
    "Read-TxClock",
    "Condition-TxClock",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
];
const WRITE: [&str; 5] =
    ["Transaction-ID", "Condition-TxClock", "If-Match", "If-None-Match", "If-Unmodified-Since"];
const SCAN: [&str; 9] = ["scanKey", "time", "end", "since", "until", "pick", "slice", "nslices", "limit"];

fn facts(route: Route, verb: Verb) -> Facts {
    let plain = |summary, media, schema| Facts {
        summary,
        parameters: Vec::new(),
        body: None,
        answers: vec![(200, "Done.")],
        media: Some(media),
        schema,
    };
    let json = "application/json";
    match (route, verb) {
        (_, Verb::Options) => Facts {
            summary: "List the methods.",
            parameters: Vec::new(),
            body: None,
            answers: vec![(204, "The header Allow lists the methods.")],
            media: None,
            schema: None,
        },
        (Route::Scan, _) => Facts {
            summary: "Scan the table.",
            parameters: SCAN.iter().copied().chain(["Accept"]).collect(),
            answers: vec![(200, "The selected versions, in key order; Link leads to the next page.")],
            ..plain("", json, Some("Rows"))
        },
        (Route::Table | Route::Row, Verb::Get | Verb::Head) => {
            let mut facts = Facts {
                summary: "Read a row.",
                parameters: READ.to_vec(),
                answers: vec![(200, "The value, as it was stored."), (304, "The value is the one known.")],
                ..plain("", json, None)
            };
            if route == Route::Table {
                facts.summary = "Read the row of a key, or scan the table.";
                facts.parameters.extend(SCAN);
                facts.parameters.push("Accept");
            }
            facts
        }
        (Route::Table | Route::Row, _) => {
            let (summary, body) = match verb {
                Verb::Put => ("Write a row, whether or not it exists.", Some((json, "Value"))),
                Verb::Post => ("Create a row that does not exist.", Some((json, "Value"))),
                _ => ("Delete a row.", None),
            };
            let mut parameters = WRITE.to_vec();
            if route == Route::Table {
                parameters.push("rowKey");
            }
            Facts {
                summary,
                parameters,
                body,
                answers: vec![(200, "Written; Value-TxClock is the time of the new version.")],
                media: None,
                schema: None,
            }
        }
        (Route::BatchWrite, _) => Facts {
            summary: "Write many rows whole or not at all.",
            parameters: vec!["Transaction-ID", "Condition-TxClock"],
            body: Some((json, "Batch")),
            answers: vec![(200, "Written; Value-TxClock is the time of all new versions.")],
            media: None,
            schema: None,
        },
        (Route::TxStatus, _) => Facts {
            summary: "Ask what became of a transaction; one never decided is aborted by asking.",
            parameters: vec!["requiredTransaction-ID"],
            body: None,
            answers: vec![(200, "Committed; Value-TxClock is its time."), (409, "Aborted.")],
            media: None,
            schema: None,
        },
        (Route::Atlas, Verb::Put) => Facts {
            summary: "Ask for other cohorts.",
            parameters: vec!["If-Match"],
            body: Some((json, "Atlas")),
            media: None,
            ..plain("", json, None)
        },
        (Route::Atlas, _) => plain("The cohorts of the cell.", json, Some("Atlas")),
        (Route::Peers | Route::Hosts, _) => Facts {
            summary: "The peers that store part of a slice.",
            parameters: vec!["slice", "nslices"],
            ..plain("", json, Some("Peers"))
        },
        (Route::Schema, Verb::Put) => Facts {
            summary: "Replace the schema.",
            body: Some(("text/plain", "Text")),
            media: None,
            ..plain("", json, None)
        },
        (Route::Schema, _) => plain("The schema, as it was put.", "text/plain", Some("Text")),
        (Route::Tables, _) => plain("The tables on this host.", json, None),
        (Route::CatalogKey, Verb::Put) => Facts {
            summary: "Write a key of the catalog.",
            parameters: vec!["If-Match", "onlyAbsent"],
            body: Some((json, "Value")),
            answers: vec![(200, "Written; ETag is the key's new version.")],
            media: None,
            schema: None,
        },
        (Route::CatalogKey, Verb::Delete) => Facts {
            summary: "Remove a key of the catalog.",
            parameters: vec!["If-Match"],
            body: None,
            answers: vec![(200, "The key has no value now.")],
            media: None,
            schema: None,
        },
        (Route::CatalogKey, _) => Facts {
            parameters: vec!["local", "watch", "timeout", "If-Match", "If-None-Match"],
            answers: vec![
                (200, "The value, as it was stored; ETag is its version."),
                (304, "The version is the one known, or nothing changed while it was watched."),
            ],
            ..plain("Read a key of the catalog, or wait until it changes.", json, None)
        },
        (Route::Catalog, _) => Facts {
            parameters: vec!["prefix", "after", "limit", "local"],
            answers: vec![(200, "Keys, versions and values in key order; Link leads to the next page.")],
            ..plain("List keys of the catalog.", json, Some("Keys"))
        },
        (Route::Flock, _) => Facts {
            parameters: vec!["If-None-Match"],
            answers: vec![(200, "Done."), (304, "Nothing but the commit index has changed.")],
            ..plain("Who keeps the catalog, who leads which cohort, and where the peers are.", json, None)
        },
        (Route::Drain, _) => plain("Make this peer hand over what it leads.", json, None),
        (Route::Rejoin, _) => plain("Let this peer lead again.", json, None),
        (Route::Forget, _) => Facts {
            parameters: vec!["requiredHost"],
            ..plain(
                "Give up the directory of a host, so that it may come back with an empty one.",
                json,
                None,
            )
        },
        (Route::Status, _) => plain("How the cell is doing: peers, cohorts, moves, the catalog.", json, None),
        (Route::Ping, _) => plain("Answers pong.", "text/plain", Some("Text")),
        (Route::OpenApi, _) => plain("This document.", json, None),
        (Route::Live, _) => plain("Whether the process lives.", "text/plain", Some("Text")),
        (Route::Ready, _) => Facts {
            answers: vec![(200, "Rows are served."), (503, "They are not; the problem says why.")],
            ..plain("Whether rows are served.", "text/plain", Some("Text"))
        },
        (Route::Metrics, _) => plain("Metrics for Prometheus.", "text/plain", Some("Text")),
    }
}

fn parameters() -> Value {
    let parameter = |name: &str, place: &str, what: &str| {
        json!({
            "name": name, "in": place, "required": place == "path", "description": what,
            "schema": { "type": "string" },
        })
    };
    let clock = "A time: microseconds since 1970, decimal, 0x hexadecimal, or leading-0 octal.";
    let tags = "* or versions such as \"0x4FC23BE9A3251\".";
    let mut all = json!({
        "table": parameter("table", "path", "The table's ID such as 0x1, or its name."),
        "name": parameter("name", "path", "The table's name in the schema."),
        "key": parameter("key", "path", "The row's key, percent-encoded once; a slash is %2F."),
        "catalogKey": parameter("catalogKey", "path", "The key, UTF-8, percent-encoded once; a slash is %2F."),
        "onlyAbsent": parameter("If-None-Match", "header", "*: only if the key has no value."),
        "local": parameter("local", "query", "true: what a member of the catalog has at hand will do."),
        "watch": parameter("watch", "query", "Wait until the key is at another version than this; 0: has no value."),
        "timeout": parameter("timeout", "query", "How long to watch, such as 30s; at most 60s."),
        "prefix": parameter("prefix", "query", "Only keys that begin so."),
        "after": parameter("after", "query", "Only keys after this one."),
        "requiredHost": parameter("host", "query", "The host's ID."),
        "rowKey": parameter("key", "query", "The row's key."),
        "scanKey": parameter("key", "query", "The row's key; of a scan, where it begins."),
        "time": parameter("time", "query", "On the first key, begin at its newest version at or before this time."),
        "end": parameter("end", "query", "Stop before this key."),
        "since": parameter("since", "query", "Versions after this time only."),
        "until": parameter("until", "query", "Versions at or before this time only."),
        "pick": parameter("pick", "query", "latest, between or through."),
        "slice": parameter("slice", "query", "Which of nslices shares of the table."),
        "nslices": parameter("nslices", "query", "Into how many shares the table is cut: a power of two."),
        "limit": parameter("limit", "query", "Most rows of a page."),
        "Accept": parameter("Accept", "header", "application/x-ndjson for one JSON object to the line."),
        "If-Modified-Since": parameter("If-Modified-Since", "header", "An HTTP date."),
        "If-Unmodified-Since": parameter("If-Unmodified-Since", "header", "An HTTP date."),
        "If-Match": parameter("If-Match", "header", tags),
        "If-None-Match": parameter("If-None-Match", "header", tags),
        "Read-TxClock": parameter("Read-TxClock", "header", clock),
        "Condition-TxClock": parameter("Condition-TxClock", "header", clock),
        "Transaction-ID": parameter("Transaction-ID", "header", "A hexadecimal number that names the transaction."),
        "requiredTransaction-ID": parameter("Transaction-ID", "header", "Which transaction is meant."),
    });
    all["requiredTransaction-ID"]["required"] = true.into();
    all["rowKey"]["required"] = true.into();
    all["requiredHost"]["required"] = true.into();
    all
}

fn schemas() -> Value {
    let kinds: Vec<String> =
        Kind::ALL.iter().map(|kind| format!("urn:skein:problem:{}", kind.name())).collect();
    let hosts = json!({ "type": "array", "items": { "type": ["string", "integer"] } });
    json!({
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "instance", "requestId"],
            "properties": {
                "type": { "type": "string", "enum": kinds },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "instance": { "type": "string" },
                "requestId": { "type": "string" },
            },
        },
        "Value": {},
        "Text": { "type": "string" },
        "Rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["time", "value"],
                "properties": {
                    "key": { "type": "string" },
                    "keyBase64": { "type": "string", "contentEncoding": "base64" },
                    "time": { "type": "integer" },
                    "value": {},
                },
            },
        },
        "Keys": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "version", "value"],
                "properties": {
                    "key": { "type": "string" },
                    "version": { "type": "integer" },
                    "value": {},
                },
            },
        },
        "Batch": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["table", "op"],
                "properties": {
                    "table": { "type": "string" },
                    "key": { "type": "string" },
                    "keyBase64": { "type": "string", "contentEncoding": "base64" },
                    "op": { "enum": ["create", "hold", "update", "delete"] },
                    "value": {},
                    "base64": { "type": "string", "contentEncoding": "base64" },
                    "contentType": { "type": "string" },
                },
            },
        },
        "Atlas": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "state": { "enum": ["empty", "settled", "issuing", "moving"] },
                    "hosts": hosts, "origin": hosts, "target": hosts,
                },
            },
        },
        "Peers": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "weight": { "type": "integer" },
                    "hostId": { "type": "string" },
                    "addr": { "type": ["string", "null"] },
                    "sslAddr": { "type": ["string", "null"] },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::find;
    use std::collections::BTreeSet;

    fn parsed(port: Port) -> Value {
        serde_json::from_str(&document(port)).unwrap()
    }

    #[test]
    fn the_document_lists_what_is_served_and_nothing_else() {
        for port in [Port::Data, Port::Admin] {
            let document = parsed(port);
            let listed: BTreeSet<(String, String)> = document["paths"]
                .as_object()
                .unwrap()
                .iter()
                .flat_map(|(path, item)| {
                    let methods = item.as_object().unwrap().keys().filter(|k| *k != "parameters");
                    methods.map(|m| (path.clone(), m.to_uppercase())).collect::<Vec<_>>()
                })
                .collect();
            let served: BTreeSet<(String, String)> = ROUTES
                .iter()
                .filter(|spec| spec.ports.contains(&port))
                .flat_map(|spec| spec.paths.iter().map(move |path| (spec, path)))
                .flat_map(|(spec, path)| {
                    spec.allow.split(", ").map(|m| ((*path).to_owned(), m.to_owned())).collect::<Vec<_>>()
                })
                .collect();
            assert_eq!(listed, served);
        }
    }

    #[test]
    fn every_listed_path_is_found_by_the_router() {
        for port in [Port::Data, Port::Admin] {
            for path in parsed(port)["paths"].as_object().unwrap().keys() {
                let concrete = path
                    .replace("{table}", "0x1")
                    .replace("{name}", "fruit")
                    .replace("{key}", "apple")
                    .replace("{catalogKey}", "colour");
                let found = find(port, &concrete).unwrap_or_else(|| panic!("{concrete}"));
                assert!(found.spec.paths.contains(&path.as_str()), "{path}");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for port in [Port::Data, Port::Admin] {
            let document = parsed(port);
            let mut pending = vec![&document];
            while let Some(value) = pending.pop() {
                match value {
                    Value::Object(members) => {
                        if let Some(Value::String(reference)) = members.get("$ref") {
                            let pointer = reference.strip_prefix('#').unwrap();
                            assert!(document.pointer(pointer).is_some(), "{reference}");
                        }
                        pending.extend(members.values());
                    }
                    Value::Array(items) => pending.extend(items),
                    _ => {}
                }
            }
        }
    }
}
