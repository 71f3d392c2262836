//! `tidemark query` and `tidemark status`: the same answers on a terminal.

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use tidemark_tests::data;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Site, binary};

const MANNER: Manner = Manner { batch: 100, clients: 1, persistent: true };

fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data").arg(site.data()).stdin(Stdio::null());
    command
}

#[track_caller]
fn done(site: &Site, arguments: &[&str], success: bool) -> String {
    let Output { status, stdout, stderr } = command(site, arguments).output().expect("tidemark starts");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.success(), success, "{arguments:?}: {text}");
    text
}

#[test]
fn a_question_has_the_same_answer_on_a_terminal() {
    let site = Site::new("");
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    by_http(&server.client, &data::lines(&january)[..2000], MANNER, &Pace::free());
    server.settled();
    let asked =
        ["query", "--step", "1d", "--by", "event_type", "--measures", "count,sum", "--where", "event_type:UA", "--where", "event_type:DL"];
    let path = "/v1/query?step=1d&group_by=event_type&measures=count,sum&where=event_type:UA&where=event_type:DL";
    let answer = server.client.got(path);
    let json: Value = serde_json::from_str(&done(&site, &[&asked[..], &["--json"]].concat(), true)).expect("JSON");
    assert_eq!((&json["rows"], &json["cut"]), (&answer["rows"], &answer["cut"]));
    let csv = server.client.try_get_with(path, &[("accept", "text/csv")]).expect("answered").text();
    assert_eq!(server.client.get(&path.replace("query?", "query.csv?")).text(), csv);
    let lines = server.client.try_get_with(path, &[("accept", "application/x-ndjson")]).expect("answered").text();
    assert_eq!(server.client.get(&path.replace("query?", "query.ndjson?")).text(), lines);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(Value::Array(rows), answer["rows"]);
    assert_eq!(done(&site, &[&asked[..], &["--csv"]].concat(), true), csv);
    let table = done(&site, &asked, true);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["window", "event_type", "count", "sum"]);
    for (line, row) in lines[1..].iter().zip(answer["rows"].as_array().expect("rows")) {
        let figures = [row["window"].as_str(), row["event_type"].as_str(), Some(&row["count"].to_string()), row["sum"].as_str()];
        assert_eq!(line.iter().map(|text| Some(*text)).collect::<Vec<_>>(), figures);
    }
    assert!(lines.last().is_some_and(|line| line[..2] == ["exact", "at"]), "{table}");
    let misspelt = done(&site, &["query", "--by", "event_typ"], false);
    assert!(misspelt.contains("a similar value exists: 'event_type'"), "{misspelt}");
    assert!(done(&site, &["query", "--last", "3h"], true).contains("exact at"));

    let status = done(&site, &["status"], true);
    assert!(status.contains("topic events, generation 1") && status.contains("history_lag"), "{status}");
    server.client.steer("speed", "pause");
    assert!(done(&site, &["status"], false).contains("the speed layer is paused"));
    server.client.steer("speed", "resume");

    // Watched, what is sent is seen.
    let mut watched = command(&site, &["query", "--watch", "--json", "--where", "event_type:watched"]);
    let mut watched = watched.stdout(Stdio::piped()).spawn().expect("tidemark starts");
    let mut lines = BufReader::new(watched.stdout.take().expect("piped")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["rows"][0]["count"], 0);
    let event = br#"{"event_id":"w","event_type":"watched","timestamp":"2013-01-01T10:15:00Z"}"#;
    assert_eq!(server.client.post("/v1/events", &[("content-type", "application/json")], event).status, 200);
    assert_eq!(next()["rows"][0]["count"], 1);
    watched.kill().and_then(|()| watched.wait()).expect("it can be killed");
    server.stop();
}
