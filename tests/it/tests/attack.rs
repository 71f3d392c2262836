//! Clients send slowly, send nothing, or do not read. Other clients are served meanwhile, and memory is bounded.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tidemark_tests::client::Client;
use tidemark_tests::figure::figure;
use tidemark_tests::freshness::quantile;
use tidemark_tests::question::Question;
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);
/// An attacked server may take so much more memory than one at rest.
const MORE_MEMORY_KIB: u64 = 96 << 10;
const EVENT: &str = r#"{"event_type":"a","timestamp":"2013-01-01T10:15:00Z"}"#;

fn connect(client: &Client) -> TcpStream {
    let stream = TcpStream::connect(client.url.trim_start_matches("http://")).expect("connecting");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream
}

/// Sends the beginning of something, and no more.
fn begin(client: &Client, text: &str) -> TcpStream {
    let mut stream = connect(client);
    stream.write_all(text.as_bytes()).expect("sent");
    stream
}

/// Memory of the server's own process.
fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn whoever_behaves_is_served_while_others_send_slowly_or_do_not_read() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as many connections as the system allows");
    let site = Site::new("max_connections = 850\n[kafka]\npartitions = 1\n");
    let server = site.up();
    let client = &server.client;
    let mut honest = 0;
    // How long each post took, sorted.
    let mut serve = |posts: u64| {
        let post = |_| {
            let began = Instant::now();
            let reply = client.post("/v1/events", &[("content-type", "application/json")], EVENT.as_bytes());
            assert_eq!(reply.status, 200, "{}", reply.text());
            began.elapsed()
        };
        let mut took: Vec<Duration> = (0..posts).map(post).collect();
        honest += posts;
        wait::until("an answer has what was posted", DEADLINE, || (Question::total().ask(client, None).count() == honest).then_some(()));
        took.sort_unstable();
        took
    };
    serve(20);
    let before = resident_kib(&server);

    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n";
    let silent: Vec<TcpStream> = (0..64).map(|_| begin(client, &format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"))).collect();
    let promising: Vec<TcpStream> = (0..64).map(|_| begin(client, &format!("{head}content-length: 33000000\r\n\r\n{{"))).collect();
    let half: Vec<TcpStream> = (0..600).map(|_| begin(client, head)).collect();
    // Each gets an answer of rejections that it does not read, again and again, as far as the server takes requests.
    let bad = "x\n".repeat(20_000);
    let request = format!("{head}content-length: {}\r\n\r\n{bad}", bad.len());
    let mut unread: Vec<TcpStream> = (0..30).map(|_| begin(client, &request)).collect();
    for stream in &mut unread {
        // Once the server waits for it to read, it takes no more either.
        while stream.write_all(request.as_bytes()).is_ok() && stream.set_write_timeout(Some(Duration::from_millis(200))).is_ok() {}
    }
    let took = serve(500);
    let at = |share| quantile(&took, share).as_millis();
    figure("an honest client's posts under attack, ms (p50, p99, most)", format!("{} {} {}", at(0.5), at(0.99), at(1.0)));
    let after = resident_kib(&server);
    figure("memory of an attacked server, MiB, before and then", format!("{} {}", before >> 10, after >> 10));
    assert!(after < before + MORE_MEMORY_KIB, "{before} KiB became {after} KiB");

    // What stalls is given up: a body after seconds, with an answer; a head without one.
    for (what, streams, says) in [("silent", silent, "HTTP/1.1 408"), ("promising", promising, "HTTP/1.1 408"), ("half-sent", half, "")] {
        for mut stream in streams {
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            assert!(read.is_ok() && answer.starts_with(says), "{what}: {read:?} {answer}");
        }
    }
    drop(unread);

    // One connection too many gets a 503.
    let idle: Vec<TcpStream> = (0..850).map(|_| connect(client)).collect();
    let mut refused = connect(client);
    let mut answer = String::new();
    refused.read_to_string(&mut answer).expect("the server answers and closes");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1") && answer.contains("too-many-connections"), "{answer}");
    // The connection that was there before is served.
    serve(1);
    drop(idle);
    serve(20);
}
