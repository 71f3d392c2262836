//! What the OpenAPI document says of a server, asked of that server: by its own examples, and by a program that makes up
//! requests of its own.

use crate::keys::key;
use serde_json::Value;
use std::process::Command;
use tidemark_tests::client::Client;
use tidemark_tests::foreign::{python, root};
use tidemark_tests::server::Site;

const EVERYTHING: &str = "ingest,read,admin";

/// One request, as the document's examples make it.
#[derive(Debug)]
struct Asked {
    post: bool,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `name=value`, as often as the example has values.
fn query(parameter: &Value) -> String {
    let (name, example) = (text(&parameter["name"]), &parameter["example"]);
    let values: Vec<String> = match example {
        Value::Array(items) if parameter["explode"] == false => vec![items.iter().map(text).collect::<Vec<_>>().join(",")],
        Value::Array(items) => items.iter().map(text).collect(),
        one => vec![text(one)],
    };
    form_urlencoded::Serializer::new(String::new()).extend_pairs(values.iter().map(|value| (&name, value))).finish()
}

/// Bodies with their media types; nothing is a body too, where none is wanted.
fn bodies(operation: &Value) -> Vec<(Option<String>, String)> {
    let contents = operation["requestBody"]["content"].as_object().into_iter().flatten();
    let bodies: Vec<_> = contents
        .flat_map(|(form, content)| {
            let named = content["examples"].as_object().into_iter().flat_map(|examples| examples.values().map(|example| &example["value"]));
            let examples: Vec<&Value> = named.chain(Some(&content["example"]).filter(|example| !example.is_null())).collect();
            assert!(!examples.is_empty(), "{form} has no example");
            examples.into_iter().map(|example| (Some(form.clone()), text(example))).collect::<Vec<_>>()
        })
        .collect();
    if bodies.is_empty() { vec![(None, String::new())] } else { bodies }
}

/// Each body, and each parameter by itself; headers together, for they belong together.
fn requests(path: &str, method: &str, operation: &Value) -> Vec<Asked> {
    let examples = |place: &'static str| list(&operation["parameters"]).filter(move |it| it["in"] == place && !it["example"].is_null());
    let path =
        examples("path").fold(path.to_owned(), |path, it| path.replace(&format!("{{{}}}", text(&it["name"])), &text(&it["example"])));
    let headers: Vec<_> = examples("header").map(|it| (text(&it["name"]), text(&it["example"]))).collect();
    let bodies = bodies(operation);
    let asked = |query: &str, headers: &[(String, String)], (form, body): &(Option<String>, String)| Asked {
        post: method == "post",
        path: if query.is_empty() { path.clone() } else { format!("{path}?{query}") },
        headers: form.iter().map(|form| ("content-type".to_owned(), form.clone())).chain(headers.iter().cloned()).collect(),
        body: body.clone(),
    };
    let plain = bodies.iter().map(|body| asked("", &[], body));
    let simple = bodies.iter().find(|(form, _)| form.as_deref() == Some("application/json")).unwrap_or(&bodies[0]);
    let with_query = examples("query").map(|it| asked(&query(it), &[], simple));
    let with_headers = (!headers.is_empty()).then(|| asked("", &headers, simple));
    plain.chain(with_query).chain(with_headers).collect()
}

fn status(client: &Client, asked: &Asked, secret: Option<&str>) -> (u16, String) {
    let bearer = secret.map(|secret| ("authorization".to_owned(), format!("Bearer {secret}")));
    let headers: Vec<(&str, &str)> = asked.headers.iter().chain(&bearer).map(|(name, value)| (&**name, &**value)).collect();
    // A stream has no end: its beginning says enough, and asserts that it is a success.
    if asked.path.starts_with("/v1/live") && secret.is_some() {
        drop(client.stream(&asked.path, &headers));
        return (200, String::new());
    }
    let reply =
        if asked.post { client.try_post(&asked.path, &headers, asked.body.as_bytes()) } else { client.try_get_with(&asked.path, &headers) };
    let reply = reply.unwrap_or_else(|error| panic!("{asked:?}: {}", error.0));
    (reply.status, reply.text())
}

#[test]
fn every_example_of_the_document_is_answered_as_it_says() {
    let (secret, lines) = key("all", EVERYTHING);
    let site = Site::new(&lines);
    let server = site.up();
    let document = server.client.got("/openapi.json");
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let success = operation["responses"].as_object().and_then(|responses| responses.keys().next()).expect("a response");
            for request in requests(path, method, operation) {
                let (status, said) = self::status(&server.client, &request, Some(&secret));
                assert_eq!(status.to_string(), *success, "{request:?}: {said}");
                asked += 1;
            }
            let stranger = &requests(path, method, operation)[0];
            let expected = if operation["security"].is_array() { "401" } else { success };
            assert_eq!(self::status(&server.client, stranger, None).0.to_string(), *expected, "{stranger:?} without a key");
        }
    }
    assert!(asked > 40, "{asked}");
    let page = server.client.get("/docs");
    assert!(page.content_type.starts_with("text/html") && page.text().contains("<code>GET /v1/query</code>"));
    server.stop();
}

#[test]
fn a_program_that_makes_up_requests_finds_nothing_that_is_not_described() {
    let (secret, lines) = key("all", EVERYTHING);
    let site = Site::new(&lines);
    let server = site.up();
    let out = std::env::temp_dir();
    let mut command = Command::new(python());
    command.args(["-m", "schemathesis.cli", "--config-file"]).arg(root().join("tests/python/schemathesis.toml"));
    command.args(["run", &format!("{}/openapi.json", server.client.url), "--header", &format!("Authorization: Bearer {secret}")]);
    // Where it keeps what it remembers of examples: nowhere in the checkout.
    let output = command
        .current_dir(out)
        .env("NO_COLOR", "1")
        .env("SCHEMATHESIS_HOOKS", root().join("tests/python/hooks.py"))
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    assert!(server.is_ready(), "it goes on");
    server.stop();
}
