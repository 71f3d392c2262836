//! History is restored from a backup, lost, or all that is left: each way back that docs/operations.md describes.

use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use tidemark_tests::client::{Client, Position};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::role::{Role, Way};
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::binary;
use tidemark_tests::wait;

pub(crate) const EPOCH_BITS: u8 = 8;
pub(crate) const CONFIG: &str =
    "[kafka]\npartitions = 2\nsession_timeout_ms = 6000\n[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n";
const MANNER: Manner = Manner { batch: 500, clients: 2, persistent: true };
const DEADLINE: Duration = Duration::from_secs(120);

/// One of each role.
pub(crate) struct Roles {
    pub(crate) ingest: Role,
    pub(crate) speed: Role,
    pub(crate) batch: Role,
    pub(crate) serve: Role,
}

impl Roles {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::by(cluster, &Way::default())
    }

    pub(crate) fn by(cluster: &Cluster, way: &Way) -> Self {
        let [ingest, speed, batch, serve] = ["ingest", "speed", "batch", "serve"].map(|role| Role::by(cluster, role, role, way));
        Self { ingest, speed, batch, serve }
    }

    pub(crate) fn stop(self) {
        [self.serve, self.batch, self.speed, self.ingest].into_iter().for_each(Role::stop);
    }

    pub(crate) fn send(&self, lines: &[&[u8]]) -> Position {
        by_http(&self.ingest.client, lines, MANNER, &Pace::free()).position
    }

    /// Waits until both layers have all, and every full epoch is closed; answers are right on the way and then.
    pub(crate) fn settle(&self, cluster: &Cluster, position: &Position) {
        let recount = Recount::read(&cluster.kafka(), "events", EPOCH_BITS);
        let by_user = Question { filters: vec![("user_id", "N14228")], ..Question::by("1d", &["event_type"]) };
        let questions = [Question::total(), Question::by("5m", &["event_type", "product_id"]), by_user];
        let check = |at_least| {
            for question in &questions {
                let answer = question.ask(&self.serve.client, at_least);
                recount.check(question, &answer).unwrap_or_else(|what| panic!("{question:?}: {what}"));
            }
        };
        check(None);
        check(Some(position));
        wait::until("history has all, and every full epoch is closed", DEADLINE, || {
            let status = self.serve.client.status();
            let settled = |at: &Value| {
                let end = at["end"].as_u64();
                end.is_some() && at["history"].as_u64() == end && at["mark"].as_u64() == end.map(|end| end >> EPOCH_BITS << EPOCH_BITS)
            };
            status["partitions"].as_array().expect("partitions").iter().all(settled).then_some(())
        });
        check(None);
    }
}

fn statement(cluster: &Cluster, statement: &str) -> String {
    let reply = Client::new(cluster.clickhouse()).post("/", &[], statement.as_bytes());
    assert_eq!(reply.status, 200, "{statement}: {}", reply.text());
    reply.text()
}

pub(crate) fn restore(cluster: &Cluster, confirmed: &[&str]) -> (bool, String) {
    let config = cluster.dir().join("config.toml");
    let (kafka, clickhouse, redis) = (cluster.kafka(), cluster.clickhouse(), cluster.redis.url());
    let mut command = Command::new(binary());
    command.arg("restore").arg("--config").arg(config).args(["--kafka", &kafka, "--clickhouse", &clickhouse, "--redis", &redis]);
    command.args(confirmed).stdin(Stdio::null());
    let output = command.output().expect("started");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn history_comes_back_from_a_backup_from_kafka_alone_and_from_itself_alone() {
    let cluster = Cluster::start(1);
    fs::write(cluster.dir().join("config.toml"), CONFIG).expect("writing the configuration");
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..9_000];

    let roles = Roles::start(&cluster);
    let position = roles.send(&lines[..4_000]);
    roles.settle(&cluster, &position);
    statement(&cluster, "BACKUP DATABASE tidemark TO Disk('backups', 'tidemark-backup')");
    let position = roles.send(&lines[4_000..]);
    roles.settle(&cluster, &position);
    let (done, said) = restore(&cluster, &["--confirm", "events"]);
    assert!(!done && said.contains("stop every tidemark"), "{said}");
    roles.stop();

    // From a backup: what came after it is still in the topic.
    statement(&cluster, "DROP DATABASE tidemark SYNC");
    statement(&cluster, "RESTORE DATABASE tidemark FROM Disk('backups', 'tidemark-backup')");
    // What it has above its marks is deleted, but not before somebody has said so.
    let (done, said) = restore(&cluster, &[]);
    assert!(!done && said.contains("rows of the history") && said.contains("say --confirm events"), "{said}");
    let (done, said) = restore(&cluster, &["--confirm", "event"]);
    assert!(!done && said.contains("`event`, but what would be deleted is `events`"), "{said}");
    let (done, said) = restore(&cluster, &["--confirm", "events"]);
    assert!(done && said.contains("history goes on from"), "{said}");
    let roles = Roles::start(&cluster);
    roles.settle(&cluster, &position);
    roles.stop();

    // From Kafka alone.
    statement(&cluster, "DROP DATABASE tidemark SYNC");
    // There is nothing to delete.
    let (done, said) = restore(&cluster, &[]);
    assert!(done && said.contains("history goes on from 0:0,1:0"), "{said}");
    let roles = Roles::start(&cluster);
    roles.settle(&cluster, &position);
    let question = Question::by("5m", &["event_type", "product_id"]);
    let before = question.ask(&roles.serve.client, Some(&position));
    roles.stop();

    // From ClickHouse alone: its events are sent to another topic, and counted in another database.
    let events = statement(
        &cluster,
        "SELECT nullIf(event_id, '') AS event_id, event_type, toUnixTimestamp64Milli(timestamp) AS timestamp, nullIf(product_id, '') AS product_id, \
         nullIf(user_id, '') AS user_id, order_amount, properties FROM tidemark.events \
         SETTINGS output_format_json_quote_64bit_integers = 0, output_format_json_quote_decimals = 0 FORMAT JSONEachRow",
    );
    let config =
        CONFIG.replace("[kafka]\n", "[kafka]\ntopic = \"events-again\"\ngroup = \"again\"\n") + "[clickhouse]\ndatabase = \"again\"\n";
    fs::write(cluster.dir().join("config.toml"), config).expect("writing the configuration");
    let roles = Roles::start(&cluster);
    let mut send = Command::new(binary())
        .args(["send", "-", "--url", &roles.ingest.client.url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    send.stdin.take().expect("piped").write_all(events.as_bytes()).expect("taken");
    let sent = send.wait_with_output().expect("it ends");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stdout));
    let same = || {
        let again = question.try_ask(&roles.serve.client)?;
        (again.rows() == before.rows()).then_some(())
    };
    wait::until("the same events are counted again", DEADLINE, same);
    roles.stop();
}
