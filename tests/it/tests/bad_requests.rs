//! A bad request gets a problem document that says what to do, and changes nothing.

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use tidemark_tests::client::{Client, Reply};
use tidemark_tests::recount::Recount;
use tidemark_tests::server::{Server, Site};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const EVENT: &str = r#"{"event_id":"1","event_type":"a","user_id":"u","timestamp":"2013-01-01T10:15:00Z"}"#;

/// Status and problem document agree, and the detail says what was expected of it.
fn check(what: &str, reply: &Reply, status: u16, says: &str) {
    assert_eq!((reply.status, &*reply.content_type), (status, "application/problem+json"), "{what}: {}", reply.text());
    let problem = reply.json();
    let text = |name: &str| problem[name].as_str().unwrap_or_else(|| panic!("{what}: no {name} in {problem}")).to_owned();
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert!(!text("title").is_empty() && !text("type").is_empty() && text("detail").len() > 15, "{what}: {problem}");
    assert!(text("detail").contains(says), "{what}: should say `{says}`: {problem}");
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("packing in memory")
}

/// A request of which only the head is sent: the answer must not wait for the rest.
fn head_only(client: &Client, promised: usize) -> Reply {
    let address = client.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("connecting");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
    write!(stream, "POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {promised}\r\nconnection: close\r\n\r\n").expect("sending");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the server answers and closes");
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let kind = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-type: ").map(str::to_owned));
    Reply {
        status,
        content_type: kind.unwrap_or_default(),
        tag: None,
        cut: None,
        link: None,
        retry_after: None,
        body: body.as_bytes().to_vec(),
    }
}

fn bad_queries(client: &Client) {
    for (query, says) in [
        ("group_by=nonsense", "nonsense"),
        ("group_by=event_type%27%3B+DROP+TABLE+events--", "there is no dimension"),
        ("group_by=event_type,event_type", "twice"),
        ("where=nonsense:1", "nonsense"),
        ("where=event_type", "dimension:value"),
        ("from=2013-01-01T00:01:00Z", "2013-01-01T00:00:00.000Z and 2013-01-01T00:05:00.000Z"),
        ("to=2013-01-01T00:04:59.999Z", "nearest"),
        ("from=2014-01-01T00:00:00Z&to=2013-01-01T00:00:00Z", "before"),
        ("from=2013-01-01T00:00:00Z&to=2013-01-01T00:00:00Z", "before"),
        ("from=9999999999999999", "outside"),
        ("from=-99999999999999999999", "RFC 3339"),
        ("from=1900-01-01T00:00:00Z", "outside"),
        ("to=2200-01-01T00:00:00Z", "outside"),
        ("from=yesterday", "RFC 3339"),
        ("step=1d&tz=Mars/Phobos", "zone"),
        ("step=7m", "5m"),
        ("measures=median", "count"),
        ("top=0:count", "top"),
        ("top=3:median", "median"),
        ("at_least=nonsense", "at_least"),
        ("at_least=999:1", "partition"),
        ("timeout_ms=soon", "timeout_ms"),
        ("colour=red", "colour"),
        ("step=1h&step=1d", "twice"),
    ] {
        check(query, &client.get(&format!("/v1/query?{query}")), 400, says);
    }
    check("a position not reached", &client.get("/v1/query?at_least=0:1000000&timeout_ms=50"), 504, "timeout_ms");
    check("dead letters without end", &client.get("/v1/dead-letters?limit=1000000"), 400, "limit");
    check("an unknown parameter", &client.get("/v1/dead-letters?colour=red"), 400, "limit");
    check("an unknown resource", &client.get("/v1/nonsense"), 404, "/v1/query");
    check("an unknown layer", &client.post("/v1/layers/nonsense/pause", &[], b""), 400, "speed");
    check("an unknown action", &client.post("/v1/layers/speed/nonsense", &[], b""), 400, "pause");
}

fn bad_bodies(client: &Client) {
    let events = |headers: &[(&str, &str)], body: &[u8]| client.post("/v1/events", headers, body);
    check("an empty body", &events(&[JSON], b""), 400, "empty");
    check("blank lines", &events(&[NDJSON], b"\n \n"), 400, "");
    check("not JSON", &events(&[JSON], b"{\"event_type\":"), 400, "");
    check("a broken array", &events(&[JSON], format!("[{EVENT},").as_bytes()), 400, "");
    check("a number", &events(&[JSON], b"42"), 400, "");
    check("a wrong content type", &events(&[("content-type", "text/xml")], EVENT.as_bytes()), 415, "application/json");
    check("an unknown coding", &events(&[JSON, ("content-encoding", "br")], EVENT.as_bytes()), 415, "gzip");
    let whole = packed(EVENT.as_bytes());
    check("gzip that is none", &events(&[JSON, GZIP], EVENT.as_bytes()), 400, "gzip");
    check("gzip cut short", &events(&[JSON, GZIP], &whole[..whole.len() - 12]), 400, "gzip");
    check("zstd that is none", &events(&[JSON, ("content-encoding", "zstd")], EVENT.as_bytes()), 400, "zstd");
    check("a body that promises too much", &head_only(client, 33 * 1024 * 1024), 413, "");
    check("a body that unpacks to too much", &events(&[NDJSON, GZIP], &packed(&vec![b' '; 129 * 1024 * 1024])), 413, "unpacked");
    check("too many events", &events(&[NDJSON], format!("{EVENT}\n").repeat(100_001).as_bytes()), 413, "");
    check("a GET", &client.get("/v1/events"), 405, "POST");
}

/// What another user of this machine can reach, and what a page in somebody's browser can.
fn strangers(server: &Server) {
    let place = server.runtime().clickhouse.rsplit_once('@').expect("the address has a password").1.to_owned();
    let stranger = Client::new(format!("http://{place}"));
    let asked = |headers: &[(&str, &str)], statement: &str| {
        let reply = stranger.post("/?database=tidemark", headers, statement.as_bytes());
        (reply.status, reply.text())
    };
    assert_eq!(asked(&[], "SELECT count() >= 0 FROM events"), (200, "1\n".to_owned()));
    let got = stranger.get("/?database=tidemark&query=SELECT%20count()%20%3E%3D%200%20FROM%20events");
    assert_eq!((got.status, got.text()), (200, "1\n".to_owned()));
    for (headers, statement) in [
        (&[][..], "DROP TABLE events"),
        (&[("x-clickhouse-key", "guessed")], "ALTER TABLE ledger DELETE WHERE 1"),
        (&[("authorization", "Basic dGlkZW1hcms6Z3Vlc3NlZA==")], "INSERT INTO events (offset) VALUES (1)"),
        (&[("origin", "https://evil.example")], "SELECT 1"),
        (&[("sec-fetch-site", "cross-site")], "SELECT 1"),
    ] {
        let (status, text) = asked(headers, statement);
        assert!(status != 200 && text.contains("READONLY"), "{statement}: {status} {text}");
    }
    let client = &server.client;
    for headers in [&[("origin", "https://evil.example")][..], &[("sec-fetch-site", "cross-site")], &[("host", "rebound.example")]] {
        let reply = client.post("/v1/layers/speed/pause", headers, b"");
        check("a page of somebody else's", &reply, 403, "");
        check("a page of somebody else's", &client.try_get_with("/v1/status", headers).expect("an answer"), 403, "");
    }
}

#[test]
fn a_bad_request_is_told_what_to_do_and_changes_nothing() {
    let site = Site::new("");
    let server = site.up();
    let client = &server.client;
    let reply = client.post("/v1/events", &[JSON], EVENT.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let log = || Recount::read(&server.runtime().kafka, &server.topic(), 18);
    let ends = log().ends;
    assert_eq!(ends.values().sum::<u64>(), 1);

    bad_queries(client);
    bad_bodies(client);
    strangers(&server);

    assert_eq!(log().ends, ends, "nothing was written");
    let reply = client.post("/v1/events", &[NDJSON], EVENT.replace("\"1\"", "\"2\"").as_bytes());
    let position = reply.json()["position"].as_str().expect("a position").to_owned();
    let answer = client.got(&format!("/v1/query?at_least={position}"));
    assert_eq!(answer["rows"][0]["count"], 2, "the server goes on: {answer}");
    let partition = position.split(':').next().expect("a partition");
    assert_eq!(position, format!("{partition}:2"), "one user's two events, and nothing between");
    assert_eq!(client.status()["layers"]["speed"]["paused"], false);
    server.stop();
}
