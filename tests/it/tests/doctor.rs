//! `tidemark doctor`: says that all is well when it is, and what is wrong when one thing is, in bounded time whatever is down.

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tidemark_tests::data;
use tidemark_tests::redis::Redis;
use tidemark_tests::retention::keep;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Site, binary, free_port, freeze};

const MANNER: Manner = Manner { batch: 500, clients: 1, persistent: true };
/// Two looks of five seconds, and what else a busy machine may take.
const BOUND: Duration = Duration::from_secs(30);
/// These are the machine's own.
const ROOM: [&str; 2] = ["disk", "clickhouse-disk"];

fn doctor(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("doctor").args(arguments).arg("--data").arg(site.data()).arg("--config").arg(site.config()).stdin(Stdio::null());
    let begun = Instant::now();
    let output = command.output().expect("tidemark starts");
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    output
}

/// Its findings, having checked that the exit code is that of the worst.
fn findings(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let output = doctor(site, &[&["--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = match report["worst"].as_str() {
        Some("ok") => 0,
        Some("warning") => 6,
        _ => 3,
    };
    assert_eq!(output.status.code(), Some(code), "{report:#}");
    report["checks"].as_array().expect("checks").clone()
}

/// Only these checks are not well, and each says so.
#[track_caller]
fn ill(findings: &[Value], wanted: &[(&str, &str, &str)]) {
    let is_ill = |finding: &&Value| finding["level"] != "ok" && !ROOM.contains(&finding["check"].as_str().expect("a name"));
    let ill: Vec<&Value> = findings.iter().filter(is_ill).collect();
    assert_eq!(ill.len(), wanted.len(), "{ill:#?}");
    for (finding, (check, level, says)) in ill.iter().zip(wanted) {
        assert_eq!((&finding["check"], &finding["level"]), (&(*check).into(), &(*level).into()), "{ill:#?}");
        assert!(finding["found"].as_str().is_some_and(|found| found.contains(says)), "{finding:#}");
        assert!(finding["advice"].is_string(), "{finding:#}");
    }
}

#[test]
fn a_doctor_says_what_is_wrong_and_what_to_do() {
    let redis = Redis::start();
    let site = Site::new(&format!(
        "listen = \"127.0.0.1:{}\"\n[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n[redis]\nurls = [\"{}\"]\n",
        free_port(),
        redis.url()
    ));
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    by_http(&server.client, &data::lines(&january)[..3_000], MANNER, &Pace::free());
    server.settled();

    let well = findings(&site, &[]);
    ill(&well, &[]);
    let names: Vec<&str> = well.iter().filter_map(|finding| finding["check"].as_str()).collect();
    for check in [
        "configuration",
        "access",
        "ports",
        "server",
        "speed-lag",
        "topic",
        "replication",
        "message-size",
        "retention",
        "groups",
        "input",
        "positions",
        "lag",
        "clickhouse",
        "clickhouse-settings",
        "tables",
        "clickhouse-disk",
        "rules",
        "reconciliation",
        "redis",
        "redis-memory",
        "redis-persistence",
        "disk",
        "clocks",
    ] {
        assert!(names.contains(&check), "{check} is not among {names:?}");
    }
    let says = |check: &str, says: &str| {
        let finding = well.iter().find(|finding| finding["check"] == check).expect("it is there");
        assert!(finding["found"].as_str().is_some_and(|found| found.contains(says)), "{finding:#}");
    };
    says("reconciliation", "both layers agree on");
    says("lag", "history is 0 records behind");
    says("tables", "21 tables and fillers");
    says("clocks", "Redis agree within");
    assert!(!String::from_utf8_lossy(&doctor(&site, &[]).stdout).contains('\x1b'), "no colours where there is no terminal");

    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    ill(&findings(&site, &[]), &[("redis", "failure", "maxmemory-policy is allkeys-lru")]);
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    keep(&server, 60_000);
    ill(&findings(&site, &[]), &[("retention", "failure", "keeps records for 60 seconds only")]);
    keep(&server, -1);

    server.sql("DROP VIEW by_type_1d_g1_filler");
    ill(&findings(&site, &[]), &[("tables", "failure", "`by_type_1d_g1_filler` is missing")]);

    // Other rules than those that counted.
    let config = std::fs::read_to_string(site.config()).expect("the configuration");
    site.configure(&config.replace("[counting]", "[counting]\ndedup = \"off\""));
    let other = findings(&site, &[]);
    assert!(other.iter().any(|finding| finding["check"] == "rules" && finding["level"] == "failure"), "{other:#?}");
    site.configure(&config);

    // The engine is killed, and the process that would start it again stands still.
    freeze(server.pid(), true);
    let engine = server.kill_engine().expect("the engine runs");
    let found = findings(&site, &[]);
    let down =
        [("ports", "failure", "clickhouse at"), ("server", "failure", "no answer within"), ("clickhouse", "failure", "did not answer")];
    ill(&found, &down);
    freeze(server.pid(), false);
    server.wait_recovered(engine);

    // Nothing runs at all.
    server.kill();
    let nothing = findings(&site, &[]);
    let nowhere = "there is nothing to look at";
    ill(&nothing, &[("server", "warning", "no tidemark answers"), ("topic", "warning", nowhere), ("clickhouse", "warning", nowhere)]);

    // Servers are named, and none of them is there.
    let gone = findings(
        &site,
        &["--kafka", "127.0.0.1:1", "--clickhouse", "http://127.0.0.1:1", "--redis", "redis://127.0.0.1:1", "--url", "http://127.0.0.1:1"],
    );
    let refused = "takes no connection";
    let all = [
        ("ports", "failure", refused),
        ("server", "failure", "does not answer"),
        ("topic", "failure", "does not answer"),
        ("clickhouse", "failure", "did not answer"),
        ("redis", "failure", "does not answer"),
    ];
    ill(&gone, &all);
}
