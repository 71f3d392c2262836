//! The libraries of CloudEvents and Segment, as they are, against a server with keys.

use crate::keys::key;
use std::process::Command;
use tidemark_tests::client::{Client, Reply};
use tidemark_tests::foreign::{python, said};
use tidemark_tests::server::Site;
use tidemark_tests::wait;

fn asked(client: &Client, key: &str, path: &str) -> Reply {
    client.try_get_with(path, &[("authorization", &format!("Bearer {key}"))]).expect("an answer")
}

#[test]
fn what_others_libraries_send_is_counted_once_and_no_call_is_lost_silently() {
    let (secret, lines) = key("shop", "ingest,read");
    let site = Site::new(&lines);
    let server = site.up();
    let lines = said(Command::new(python()).args(["tests/python/dialects.py", &server.client.url, &secret]));
    let expected =
        ["cloud 200 1", "cloud 200 1", "cloud 200 1", "cloud 200 2", "segment sent", "segment sent", "segment failed: 401 unknown"];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);

    let rows = wait::until("all is counted", std::time::Duration::from_secs(30), || {
        let reply = asked(&server.client, &secret, "/v1/query?group_by=event_type,product_id,user_id&measures=count,sum");
        let rows = reply.json()["rows"].as_array().expect("rows").iter().map(ToString::to_string).collect::<Vec<_>>();
        (rows.len() == 3).then_some(rows)
    });
    let row = |of: &str, product: &str, user: &str, count: u64, sum: &str| {
        format!(r#"{{"event_type":"{of}","product_id":"{product}","user_id":"{user}","count":{count},"sum":"{sum}"}}"#)
    };
    let sorted = |row: String| serde_json::from_str::<serde_json::Value>(&row).expect("JSON").to_string();
    let expected = [row("cloud", "p", "u", 4, "5.7500"), row("segment", "", "nobody", 2, "0.5000"), row("segment", "p", "u", 2, "19.5000")];
    assert_eq!(rows, expected.map(sorted));
    let dead = asked(&server.client, &secret, "/v1/dead-letters").json();
    let dead = dead["dead_letters"].as_array().expect("an array");
    assert_eq!(dead.len(), 1, "the CloudEvents event that was sent twice: {dead:?}");
    assert_eq!(dead[0]["reason"], "duplicate");
    let metrics = asked(&server.client, &secret, "/metrics").text();
    assert!(metrics.contains("tidemark_ingest_items_total{outcome=\"rejected\"} 2\n"), "two calls of identify");
    server.stop();
}
