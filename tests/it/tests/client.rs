//! The client crate and the Python example, against a real server.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use tidemark_client::{Client, Query};
use tidemark_tests::foreign::{root, said};
use tidemark_tests::server::Site;

fn purchases(first: u64, events: u64) -> Vec<serde_json::Value> {
    let event = |n: u64| serde_json::json!({"event_type": "purchase", "timestamp": "2013-01-01T10:15:00Z", "event_id": format!("c{n}"), "user_id": "u", "order_amount": 1.5});
    (first..first + events).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_reads_its_own_writes_and_listens_across_a_restart() {
    let site = Site::new("");
    let server = tokio::task::block_in_place(|| site.up());
    let client = Client::new(&server.client.url, None, None).expect("a client");
    let sent = client.send(&purchases(0, 3)).await.expect("sent");
    assert_eq!((sent.accepted, sent.rejected.len()), (3, 0));
    let query = Query::new().step("5m").group_by(&["event_type"]).measures(&["count", "sum"]);
    let answer = client.query(&query.clone().at_least(&sent.position)).await.expect("an answer");
    assert_eq!(answer.rows.len(), 1);
    let row = &answer.rows[0];
    let shown = (row.window.as_deref(), row.event_type.as_deref(), row.count, row.sum.as_deref());
    assert_eq!(shown, (Some("2013-01-01T10:15:00.000Z"), Some("purchase"), Some(3), Some("4.5000")));
    let status = client.status().await.expect("a status");
    assert!(status.partitions.iter().all(|partition| partition.ready) && status.broken_invariants == 0);

    let mut live = client.live(query);
    while live.next().await.expect("told").first().and_then(|row| row.count) != Some(3) {}
    let server = tokio::task::block_in_place(|| {
        server.stop();
        site.up()
    });
    client.send(&purchases(2, 3)).await.expect("sent");
    while live.next().await.expect("told").first().and_then(|row| row.count) != Some(5) {}
    assert_eq!(live.rows().next().and_then(|row| row.revision), Some(5), "one of the three was a duplicate");
    drop(live);
    tokio::task::block_in_place(|| server.stop());
}

/// Listens by the example's class, from within the checkout.
const LISTENER: &str = "
import sys
sys.path.insert(0, 'examples/python')
from tidemark import Tidemark
for rows, cut in Tidemark(sys.argv[1]).live(step='total', where=['event_type:purchase'], group_by='event_type'):
    print(*[row['count'] for row in rows.values()], flush=True)
";

#[test]
fn the_python_example_does_what_it_says_and_listens_across_a_restart() {
    let site = Site::new("");
    let mut server = site.up();
    let text = said(Command::new("python3").args(["examples/python/tidemark.py", &server.client.url]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..5],
        ["accepted 3", "rejected 3 missing_timestamp", "2013-01-01T10:15:00.000Z purchase 3 19.7500", "live 3", "live 4"],
        "{text}"
    );
    assert!(lines[5].starts_with("refused 400: step `7m` is unknown"), "{text}");

    let mut listener = Command::new("python3");
    listener.args(["-c", LISTENER, &server.client.url]).current_dir(root()).stdout(Stdio::piped());
    let mut listener = listener.spawn().expect("started");
    let mut told = BufReader::new(listener.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    assert_eq!(told.next().as_deref(), Some("4"));
    server.stop();
    server = site.up();
    let lines: Vec<String> = purchases(0, 3).iter().map(ToString::to_string).collect();
    let reply = server.client.post("/v1/events", &[("content-type", "application/x-ndjson")], lines.join("\n").as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    // It may have been told before all three were counted.
    assert!(told.any(|line| line == "7"));
    listener.kill().and_then(|()| listener.wait()).expect("killed");
    server.stop();
}
