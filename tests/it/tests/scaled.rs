//! Every role in processes of its own, on Kafka, ClickHouse and Redis that they share: whatever is killed, added, stopped
//! or cut off, each answer of each serving node is exact at its cut.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Position, raise, written};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::role::Role;
use tidemark_tests::sending::{Manner, Pace, Sent, by_http};
use tidemark_tests::wait;

const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[kafka]\npartitions = 4\nsession_timeout_ms = 6000\n[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 300\n";
const MANNER: Manner = Manner { batch: 20, clients: 1, persistent: true };

/// A deployment: two doors, and of each layer and of serving what a test wants.
struct Deployment {
    cluster: Cluster,
    ingest: Vec<Role>,
    speed: Vec<Role>,
    batch: Vec<Role>,
    serve: Vec<Role>,
    /// Speed layers that have been added.
    named: usize,
}

impl Deployment {
    fn start(brokers: u16, replication: u16, counts: [usize; 4]) -> Self {
        let cluster = Cluster::start(brokers);
        let config = CONFIG.replace("partitions = 4", &format!("partitions = 4\nreplication = {replication}"));
        fs::write(cluster.dir().join("config.toml"), config).expect("writing the configuration");
        let roles = |role: &str, n: usize| (0..n).map(|n| Role::on(&cluster, role, &format!("{role}-{n}"))).collect();
        let [ingest, speed, batch, serve] = counts;
        let (ingest, speed, batch) = (roles("ingest", ingest), roles("speed", speed), roles("batch", batch));
        let serve = roles("serve", serve);
        Self { cluster, ingest, speed, batch, serve, named: 0 }
    }

    fn add_speed(&mut self) {
        self.named += 1;
        self.speed.push(Role::on(&self.cluster, "speed", &format!("speed-more-{}", self.named)));
    }

    /// Waits until every serving node answers from Redis, at this position.
    fn wait_live(&self, position: &Position) {
        for serve in &self.serve {
            wait::until("a serving node answers from snapshots, up to the position", Duration::from_secs(60), || {
                let status = serve.client.status();
                let live = status["live"]["trouble"].is_null();
                (live && serve.client.try_get(&Question::total().path(Some(position))).is_ok_and(|reply| reply.status == 200)).then_some(())
            });
        }
    }
}

/// Asks random serving nodes, again and again, until told to stop; 503 is an answer too, and none at all while one is
/// being killed.
fn ask_all(clients: &[Client], chance: &mut Chance, stop: &AtomicBool, pause: Duration) -> Vec<(Question, Answer)> {
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let question = Question::any(chance);
        if let Some(answer) = question.try_ask(chance.pick(clients)) {
            taken.push((question, answer));
        }
        std::thread::sleep(pause);
    }
    taken
}

/// Judges all answers; how many there were, and how many had a live part.
fn judge(deployment: &Deployment, taken: &[(Question, Answer)]) -> (usize, usize) {
    let recount = Recount::read(&deployment.cluster.kafka(), "events", EPOCH_BITS);
    let wrong: Vec<String> = taken
        .iter()
        .filter_map(|(question, answer)| {
            recount.check(question, answer).err().map(|what| format!("{question:?} at {:?}: {what}", answer.cut))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), taken.len(), wrong[..wrong.len().min(5)].join("\n"));
    let live = taken.iter().filter(|(_, answer)| answer.cut.iter().any(|(partition, cut)| *cut > answer.mark[partition])).count();
    (taken.len(), live)
}

fn position(sent: &[Sent]) -> Position {
    let mut position = Position::new();
    sent.iter().for_each(|sent| raise(&mut position, &written(&sent.position)));
    position
}

/// One broker; each role is killed, a speed layer joins and another leaves, Redis is emptied and killed, the engine is
/// killed, while January is sent.
#[test]
fn an_answer_of_any_serving_node_is_exact_whatever_happens_to_the_others() {
    let mut deployment = Deployment::start(1, 1, [1, 2, 2, 2]);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    let stop = AtomicBool::new(false);
    let pace = Pace::default();
    let clients: Vec<_> = deployment.serve.iter().map(|serve| serve.client.clone()).collect();
    let door = deployment.ingest[0].client.clone();
    let (taken, sent) = std::thread::scope(|scope| {
        let holding = pace.hold();
        let sending = scope.spawn(|| by_http(&door, &lines, MANNER, &pace));
        let asking = scope.spawn(|| ask_all(&clients, &mut Chance::new("scaled"), &stop, Duration::from_millis(10)));
        let steps: [(&str, fn(&mut Deployment)); 10] = [
            ("a speed layer is killed", |d| d.speed[0].kill_and_restart()),
            ("a batch layer is killed", |d| d.batch[0].kill_and_restart()),
            ("a speed layer joins", Deployment::add_speed),
            ("a serving node is killed", |d| d.serve[0].kill_and_restart()),
            ("redis is emptied", |d| drop(d.cluster.redis.ask(&["FLUSHALL"]))),
            ("a speed layer leaves", |d| d.speed.remove(1).stop()),
            ("ingest is killed", |d| d.ingest[0].kill_and_restart()),
            ("the engine is killed", |d| {
                d.cluster.kill_engine();
                d.cluster.restart_engine();
            }),
            ("redis is killed", |d| {
                d.cluster.redis.kill();
                std::thread::sleep(Duration::from_secs(1));
                d.cluster.redis.restart();
            }),
            ("a batch layer is restarted", |d| d.batch[1].stop_and_restart()),
        ];
        let batches = lines.len() / MANNER.batch;
        let each = batches / (steps.len() + 2);
        for (n, (what, step)) in steps.into_iter().enumerate() {
            holding.wait_for((n + 1) * each);
            eprintln!("{what}");
            step(&mut deployment);
        }
        drop(holding);
        let sent = sending.join().expect("the sender goes on to the end");
        deployment.wait_live(&position(std::slice::from_ref(&sent)));
        stop.store(true, Ordering::Relaxed);
        (asking.join().expect("the asker goes on to the end"), sent)
    });
    let (answers, live) = judge(&deployment, &taken);
    figure("scaled out: answers equal, of which with a live part", format!("{answers} and {live}"));
    assert!(live > 100, "only {live} of {answers} answers had a live part");
    let recount = Recount::read(&deployment.cluster.kafka(), "events", EPOCH_BITS);
    for question in [Question::total(), Question::by("5m", &["event_type", "product_id"])] {
        for serve in &deployment.serve {
            recount
                .check(&question, &question.ask(&serve.client, Some(&position(std::slice::from_ref(&sent)))))
                .unwrap_or_else(|what| panic!("at last: {what}"));
        }
    }
    deployment.serve.into_iter().chain(deployment.batch).chain(deployment.speed).chain(deployment.ingest).for_each(Role::stop);
}
