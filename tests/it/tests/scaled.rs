//! Every role in processes of its own, on Kafka, ClickHouse and Redis that they share: whatever is killed, added, stopped
//! or cut off, each answer of each serving node is exact at its cut.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Position};
use tidemark_tests::cluster::{Cluster, Endpoints};
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::freshness::{Freshness, quantile};
use tidemark_tests::proxy::{Proxy, Weather};
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::role::{Role, Way};
use tidemark_tests::sending::{Holding, Manner, Pace, Sent, by_http};
use tidemark_tests::server::binary;
use tidemark_tests::wait::{self, Stopping};

const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[kafka]\npartitions = 4\nsession_timeout_ms = 6000\n[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 300\n";
const MANNER: Manner = Manner { batch: 20, clients: 1, persistent: true };

/// A deployment: two doors, and of each layer and of serving what a test wants.
pub(crate) struct Deployment {
    pub(crate) cluster: Cluster,
    pub(crate) ingest: Vec<Role>,
    pub(crate) speed: Vec<Role>,
    pub(crate) batch: Vec<Role>,
    pub(crate) serve: Vec<Role>,
    /// Speed layers that have been added.
    named: usize,
}

impl Deployment {
    fn start(brokers: u16, replication: u16, counts: [usize; 4]) -> Self {
        let config = CONFIG.replace("partitions = 4", &format!("partitions = 4\nreplication = {replication}"));
        Self::with(&config, brokers, counts, &Way::default())
    }

    pub(crate) fn with(config: &str, brokers: u16, counts: [usize; 4], way: &Way) -> Self {
        let cluster = Cluster::start(brokers);
        fs::write(cluster.dir().join("config.toml"), config).expect("writing the configuration");
        let roles = |role: &str, n: usize| (0..n).map(|n| Role::by(&cluster, role, &format!("{role}-{n}"), way)).collect();
        let [ingest, speed, batch, serve] = counts;
        let (ingest, speed, batch) = (roles("ingest", ingest), roles("speed", speed), roles("batch", batch));
        let serve = roles("serve", serve);
        Self { cluster, ingest, speed, batch, serve, named: 0 }
    }

    fn add_speed(&mut self) {
        self.named += 1;
        self.speed.push(Role::on(&self.cluster, "speed", &format!("speed-more-{}", self.named)));
    }

    /// Sends these events while something happens, and meanwhile asks any serving node; judges all answers, and those that
    /// are given when all is quiet. `name` is the figure's.
    fn under_load(&mut self, name: &str, lines: &[&[u8]], happen: impl FnOnce(&mut Self, &Holding<'_>)) {
        let (stop, pace) = (AtomicBool::new(false), Pace::default());
        let nodes: Vec<_> = self.serve.iter().map(|serve| serve.client.clone()).collect();
        let door = self.ingest[0].client.clone();
        let (taken, sent) = std::thread::scope(|scope| {
            let _stopping = Stopping(&stop);
            let holding = pace.hold();
            let sending = scope.spawn(|| by_http(&door, lines, MANNER, &pace));
            let asking = scope.spawn(|| ask_all(&nodes, name, &stop, &AtomicUsize::new(0), Duration::from_millis(10)));
            happen(self, &holding);
            drop(holding);
            let sent = sending.join().expect("the sender goes on to the end");
            self.wait_live(&sent.position);
            stop.store(true, Ordering::Relaxed);
            (asking.join().expect("the asker goes on to the end"), sent)
        });
        let (answers, live) = judge(self, &taken);
        figure(&format!("{name}: answers equal, of which with a live part"), format!("{answers} and {live}"));
        assert!(live > 100, "only {live} of {answers} answers had a live part");
        self.check_at_last(&sent);
    }

    /// When all is quiet, each serving node gives the whole, and right.
    fn check_at_last(&self, sent: &Sent) {
        let recount = Recount::read(&self.cluster.kafka(), "events", EPOCH_BITS);
        for question in [Question::total(), Question::by("5m", &["event_type", "product_id"])] {
            for serve in &self.serve {
                let answer = question.ask(&serve.client, Some(&sent.position));
                recount.check(&question, &answer).unwrap_or_else(|what| panic!("at last: {what}"));
            }
        }
    }

    /// Waits until every serving node answers from Redis, at this position.
    pub(crate) fn wait_live(&self, position: &Position) {
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
/// being killed. `asked` counts the answers.
fn ask_all(clients: &[Client], name: &str, stop: &AtomicBool, asked: &AtomicUsize, pause: Duration) -> Vec<(Question, Answer)> {
    let (mut chance, mut taken) = (Chance::new(name), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let question = Question::any(&mut chance);
        if let Some(answer) = question.try_ask(chance.pick(clients)) {
            asked.fetch_add(1, Ordering::Relaxed);
            taken.push((question, answer));
        }
        std::thread::sleep(pause);
    }
    taken
}

/// Judges all answers; how many there were, and how many had a live part.
fn judge(deployment: &Deployment, taken: &[(Question, Answer)]) -> (usize, usize) {
    let recount = Recount::read(&deployment.cluster.kafka(), "events", EPOCH_BITS);
    recount.check_all(taken);
    let live = taken.iter().filter(|(_, answer)| answer.cut.iter().any(|(partition, cut)| *cut > answer.mark[partition])).count();
    (taken.len(), live)
}

/// One broker; each role is killed, a speed layer joins and another leaves, Redis is emptied and killed, the engine is
/// killed, while January is sent.
#[test]
fn an_answer_of_any_serving_node_is_exact_whatever_happens_to_the_others() {
    let mut deployment = Deployment::start(1, 1, [1, 2, 2, 2]);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    deployment.under_load("scaled out", &lines, |deployment, holding| {
        let steps: [(&str, Happen); 10] = [
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
            step(deployment);
        }
    });
    deployment.serve.into_iter().chain(deployment.batch).chain(deployment.speed).chain(deployment.ingest).for_each(Role::stop);
}

/// The version before and this one side by side: from one to the other role by role, halfway back, and on again.
#[test]
#[ignore = "takes the program of the version before, at TIDEMARK_BEFORE: make accept-scale"]
fn answers_are_exact_while_a_deployment_goes_from_one_version_to_the_next_and_back() {
    let before = PathBuf::from(std::env::var_os("TIDEMARK_BEFORE").expect("TIDEMARK_BEFORE names the program of the version before"));
    let mut deployment = Deployment::with(CONFIG, 1, [2, 2, 2, 2], &Way { program: Some(before.clone()), ..Way::default() });
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    let now = binary();
    deployment.under_load("two versions side by side", &lines, |deployment, holding| {
        let steps = [
            ("the first of each role becomes the new version", 0, &now),
            ("the second, too", 1, &now),
            ("the second goes back", 1, &before),
            ("and on again", 1, &now),
        ];
        let each = lines.len() / MANNER.batch / (steps.len() + 2);
        for (n, (what, which, program)) in steps.into_iter().enumerate() {
            holding.wait_for((n + 1) * each);
            eprintln!("{what}");
            let Deployment { ingest, speed, batch, serve, .. } = &mut *deployment;
            for roles in [serve, batch, speed, ingest] {
                roles[which].change_to(program);
            }
        }
    });
}

type Happen = fn(&mut Deployment);

/// What happens to a deployment, and how fresh answers are meanwhile.
struct Step {
    what: &'static str,
    happen: Happen,
    /// What freshness may be, in the 99th percentile; what is not a hand-over has no bound of its own.
    bound: Option<Duration>,
}

/// For the session's timeout, five seconds more.
const AFTER_A_KILL: Duration = Duration::from_secs(11);
const HAND_OVER: Duration = Duration::from_secs(3);
/// What a step's freshness is looked at for after it.
const AFTERWARDS: Duration = Duration::from_secs(4);

fn roll(d: &mut Deployment) {
    d.ingest.iter_mut().chain(&mut d.speed).chain(&mut d.batch).chain(&mut d.serve).for_each(Role::stop_and_restart);
}

/// Three brokers, and everything in turn; `make accept-scale` runs it.
#[test]
#[ignore = "minutes of work: make accept-scale"]
fn five_thousand_answers_are_exact_while_everything_is_killed_scaled_and_rolled() {
    let answers: usize = std::env::var("TIDEMARK_ANSWERS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let mut deployment = Deployment::start(3, 3, [2, 3, 2, 3]);
    let kill = |what, happen| Step { what, happen, bound: None };
    let steps = [
        kill("ingest is killed", |d: &mut Deployment| d.ingest[0].kill_and_restart()),
        Step { what: "a speed layer is killed", happen: |d| d.speed[0].kill_and_restart(), bound: Some(AFTER_A_KILL) },
        kill("a batch layer is killed", |d| d.batch[0].kill_and_restart()),
        kill("a serving node is killed", |d| d.serve[0].kill_and_restart()),
        kill("redis is killed", |d| {
            d.cluster.redis.kill();
            d.cluster.redis.restart();
        }),
        kill("the engine is killed", |d| {
            d.cluster.kill_engine();
            d.cluster.restart_engine();
        }),
        kill("a broker is killed", |d| {
            d.cluster.kill_broker(1);
            std::thread::sleep(Duration::from_secs(5));
            d.cluster.restart_broker(1);
        }),
        Step { what: "speed layers: from 3 to 1", happen: |d| d.speed.drain(1..).for_each(Role::stop), bound: Some(HAND_OVER) },
        Step { what: "speed layers: from 1 to 4", happen: |d| (0..3).for_each(|_| d.add_speed()), bound: Some(HAND_OVER) },
        Step { what: "speed layers: from 4 to 2", happen: |d| d.speed.drain(2..).for_each(Role::stop), bound: Some(HAND_OVER) },
        Step { what: "all roles are restarted, one after the other", happen: roll, bound: Some(HAND_OVER) },
        kill("redis and the engine are restarted", |d| {
            d.cluster.redis.kill();
            d.cluster.redis.restart();
            d.cluster.kill_engine();
            d.cluster.restart_engine();
        }),
        kill("the brokers are restarted, one after the other", |d| {
            for n in 0..3 {
                d.cluster.kill_broker(n);
                d.cluster.restart_broker(n);
                std::thread::sleep(Duration::from_secs(5));
            }
        }),
    ];
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    let (freshness, stop, asked) = (Freshness::default(), AtomicBool::new(false), AtomicUsize::new(0));
    let sending_over = AtomicBool::new(false);
    let clients = |roles: &[Role]| roles.iter().map(|role| role.client.clone()).collect::<Vec<_>>();
    let (doors, nodes) = (clients(&deployment.ingest), clients(&deployment.serve));
    let pace = Pace::default();
    let (taken, sent, times) = std::thread::scope(|scope| {
        let _stopping = (Stopping(&stop), Stopping(&sending_over));
        let holding = pace.hold();
        let sending = scope.spawn(|| by_http(&doors[1], &lines, MANNER, &pace));
        // So many that none is late because the one before it waits for its acknowledgement.
        let fresh: Vec<_> = (0..40).map(|_| scope.spawn(|| freshness.send(&doors[1], 5, 1, &sending_over))).collect();
        nodes[1..].iter().for_each(|node| drop(scope.spawn(|| freshness.watch(node, &stop))));
        let asking: Vec<_> = (0..3)
            .map(|n| {
                let (nodes, stop, asked) = (&nodes, &stop, &asked);
                scope.spawn(move || ask_all(nodes, &format!("scale {n}"), stop, asked, Duration::from_millis(20)))
            })
            .collect();
        let each = lines.len() / MANNER.batch / (steps.len() + 2);
        let mut times = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            holding.wait_for((n + 1) * each);
            // What a step's freshness is must not be what the step before has left to be sent.
            wait::until("senders are in time", Duration::from_secs(60), || freshness.is_in_time().then_some(()));
            eprintln!("{}", step.what);
            let began = Instant::now();
            (step.happen)(&mut deployment);
            std::thread::sleep(AFTERWARDS);
            times.push((began, Instant::now()));
        }
        drop(holding);
        let sent = sending.join().expect("the sender goes on to the end");
        wait::until("enough questions have been answered", Duration::from_secs(900), || {
            (asked.load(Ordering::Relaxed) >= answers).then_some(())
        });
        sending_over.store(true, Ordering::Relaxed);
        fresh.into_iter().for_each(|sender| sender.join().expect("the sender goes on to the end"));
        deployment.wait_live(&sent.position);
        wait::until("all that was acknowledged has been seen", Duration::from_secs(60), || freshness.is_seen().then_some(()));
        stop.store(true, Ordering::Relaxed);
        let taken: Vec<_> = asking.into_iter().flat_map(|asking| asking.join().expect("the asker goes on to the end")).collect();
        (taken, sent, times)
    });
    let mut late = Vec::new();
    for (step, (from, to)) in steps.iter().zip(times) {
        let took = freshness.between(from, to);
        let (p50, p99, most) = (quantile(&took, 0.5), quantile(&took, 0.99), took[took.len() - 1]);
        figure(&format!("{}: freshness p50, p99, most", step.what), format!("{p50:.3?}, {p99:.3?}, {most:.3?}"));
        late.extend(step.bound.filter(|bound| p99 > *bound).map(|bound| format!("{}: {p99:?}, more than {bound:?}", step.what)));
    }
    let (answers, live) = judge(&deployment, &taken);
    figure("answers equal to the recount at their cuts, of which with a live part", format!("{answers} and {live}"));
    figure("events meanwhile", sent.accepted + freshness.events());
    assert!(late.is_empty(), "{late:?}");
}

/// To each door. A batch that waited for the one before it would be late by the sender's fault.
const SENDERS: usize = 5;

/// How soon what is acknowledged is in an answer by way of Redis, and how fast answers are, at 20,000 events/s.
#[test]
#[ignore = "a measurement: make accept-scale"]
fn what_is_acknowledged_is_soon_in_the_answers_of_another_process() {
    let config = CONFIG.replace("epoch_bits = 9", "epoch_bits = 16").replace("max_age_ms = 300", "max_age_ms = 2000");
    let deployment = Deployment::with(&config, 3, [2, 2, 1, 2], &Way::default());
    let (freshness, stop, sending_over) = (Freshness::default(), AtomicBool::new(false), AtomicBool::new(false));
    let seconds = 30;
    let (from, took) = std::thread::scope(|scope| {
        for door in deployment.ingest.iter().flat_map(|door| [door; SENDERS]) {
            scope.spawn(|| freshness.send(&door.client, 10_000 / SENDERS as u64, 100, &sending_over));
        }
        scope.spawn(|| freshness.watch(&deployment.serve[0].client, &stop));
        // Warm.
        std::thread::sleep(Duration::from_secs(5));
        let (from, mut took) = (Instant::now(), Vec::new());
        while from.elapsed() < Duration::from_secs(seconds) {
            let hour = jiff::Timestamp::now().as_millisecond().div_euclid(300_000) * 300_000 + 300_000 - 3_600_000;
            let question = Question { from_ms: Some(hour), ..Question::by("5m", &["event_type"]) };
            let answer = deployment.serve[1].client.got(&question.path(None));
            took.push(Duration::from_secs_f64(answer["took_ms"].as_f64().expect("the answer says how long it took") / 1000.0));
            std::thread::sleep(Duration::from_millis(20));
        }
        let to = Instant::now();
        sending_over.store(true, Ordering::Relaxed);
        wait::until("all that was acknowledged has been seen", Duration::from_secs(60), || freshness.is_seen().then_some(()));
        stop.store(true, Ordering::Relaxed);
        ((from, to), took)
    });
    let fresh = freshness.between(from.0, from.1);
    let mut took = took;
    took.sort();
    let (p50, p99) = (quantile(&fresh, 0.5), quantile(&fresh, 0.99));
    figure("freshness through Redis at 20,000 events/s: p50, p99", format!("{p50:.3?}, {p99:.3?}"));
    let p95 = quantile(&took, 0.95);
    figure("last hour by type through Redis, in the server: p50, p95", format!("{:.3?}, {p95:.3?}", quantile(&took, 0.5)));
    assert!(p99 <= Duration::from_millis(250) && p95 <= Duration::from_millis(5), "freshness p99 {p99:?}, answers p95 {p95:?}");
}

/// A speed layer is cut off from Redis and taken for dead, history is cut off, a speed layer is cut off from Kafka:
/// answers stay exact, and all is well when the networks are.
#[test]
fn answers_are_exact_while_networks_are_cut() {
    let mut deployment = Deployment::start(1, 1, [1, 0, 0, 1]);
    let redis = Proxy::to(deployment.cluster.redis.port());
    let clickhouse = Proxy::to(deployment.cluster.clickhouse_port());
    let servers = deployment.cluster.endpoints();
    let at = |servers: &Endpoints, role: &str, name: &str| {
        let way = Way { servers: Some(servers.clone()), ..Way::default() };
        Role::by(&deployment.cluster, role, name, &way)
    };
    let by_redis = Endpoints { redis: format!("redis://127.0.0.1:{}", redis.port()), ..servers.clone() };
    let by_clickhouse = Endpoints { clickhouse: format!("http://127.0.0.1:{}", clickhouse.port()), ..servers.clone() };
    let by_kafka = Endpoints { kafka: deployment.cluster.kafka_by_door(0), ..servers.clone() };
    let speed = vec![at(&by_redis, "speed", "speed-redis"), at(&by_kafka, "speed", "speed-kafka")];
    let batch = vec![at(&by_clickhouse, "batch", "batch")];
    let serve = at(&by_clickhouse, "serve", "serve-clickhouse");
    (deployment.speed, deployment.batch) = (speed, batch);
    deployment.serve.push(serve);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..16_000];
    deployment.under_load("networks cut", lines, |deployment, holding| {
        let batches = lines.len() / MANNER.batch;
        holding.wait_for(batches / 8);
        eprintln!("a speed layer is cut off from redis");
        redis.silence(true);
        holding.wait_for(batches * 2 / 8);
        eprintln!("it stands still until the group has given its partitions away");
        deployment.speed[0].freeze(true);
        std::thread::sleep(Duration::from_secs(8));
        holding.wait_for(batches * 3 / 8);
        eprintln!("it wakes, and redis hears what it had to say");
        deployment.speed[0].freeze(false);
        redis.silence(false);
        holding.wait_for(batches * 4 / 8);
        eprintln!("history is cut off");
        clickhouse.silence(true);
        holding.wait_for(batches * 5 / 8);
        std::thread::sleep(Duration::from_secs(2));
        // What needs no history, or has it already, is answered; the rest is refused. Both are seen by the asker.
        clickhouse.silence(false);
        holding.wait_for(batches * 6 / 8);
        eprintln!("a speed layer is cut off from kafka");
        deployment.cluster.set_door(0, Weather::Silent);
        std::thread::sleep(Duration::from_secs(8));
        holding.wait_for(batches * 7 / 8);
        deployment.cluster.set_door(0, Weather::Clear);
    });
}
