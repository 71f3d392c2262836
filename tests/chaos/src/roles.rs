//! Every role twice, on three brokers, an engine and a Redis; a proxy on each way between a process and a server, and between brokers.

use crate::damage;
use crate::disk::Disk;
use crate::fault::{self, Context, Deployment, Fault, Undo, nothing};
use crate::process::{give_descriptors_back, shifted_clock, use_up_descriptors};
use crate::run::{CLIENT_TIMEOUT, CONFIG};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use tidemark_tests::admin::Admin;
use tidemark_tests::client::Client;
use tidemark_tests::cluster::{Cluster, Endpoints, Extra};
use tidemark_tests::proxy::{Proxy, Weather};
use tidemark_tests::role::{Role, Way};
use tidemark_tests::server::binary;

const BROKERS: u16 = 3;
/// Of each role.
const PROCESSES: usize = 2;
const ROLES: [&str; 4] = ["ingest", "speed", "batch", "serve"];
const ENGINE_DISK_MIB: u32 = 1024;
const BROKER_DISK_MIB: u32 = 512;
const SILENT: Weather = Weather::Silent;
const SLOW: Weather = Weather::Slow(Duration::from_millis(300));
const CUTTING: Weather = Weather::Cutting(20_000);
const CLOSED: Weather = Weather::Closed;

pub struct Roles {
    processes: Vec<Process>,
    joined: Vec<Role>,
    /// Before the cluster, whose directory they are in.
    engine_disk: Option<Disk>,
    broker_disk: Option<Disk>,
    cluster: Cluster,
}

struct Process {
    kind: &'static str,
    role: Role,
    /// Of the brokers.
    door: usize,
    clickhouse: Proxy,
    redis: Proxy,
}

#[derive(Clone, Copy)]
enum Server {
    Kafka,
    ClickHouse,
    Redis,
}

impl Roles {
    pub fn start() -> Self {
        let (mut engine_disk, mut broker_disk) = (None, None);
        let cluster = Cluster::with(BROKERS, |dir| {
            engine_disk = Disk::mount(&dir.join("clickhouse"), ENGINE_DISK_MIB);
            broker_disk = Disk::mount(&dir.join("kafka-1"), BROKER_DISK_MIB);
            let settings = "num.network.threads=1\nunclean.leader.election.enable=false\n".to_owned();
            Extra { doors: ROLES.len() * PROCESSES, between: true, settings, ..Extra::default() }
        });
        let config = CONFIG.replace("[kafka]\n", "[kafka]\nreplication = 3\n");
        fs::write(cluster.dir().join("config.toml"), config).expect("writing the configuration");
        let kinds = ROLES.iter().flat_map(|kind| [*kind; PROCESSES]);
        let processes = kinds.enumerate().map(|(door, kind)| Process::start(&cluster, kind, door)).collect();
        Self { processes, joined: Vec::new(), cluster, engine_disk, broker_disk }
    }

    fn of(&self, kind: &str) -> Vec<usize> {
        (0..self.processes.len()).filter(|n| self.processes[*n].kind == kind).collect()
    }

    /// Any process of a role.
    fn any(&mut self, kind: &str, context: &mut Context<'_>) -> (usize, &mut Process) {
        let n = *context.chance.pick(&self.of(kind));
        let process = &mut self.processes[n];
        context.report.say(&format!("{kind}, the process at {}", process.role.client.url));
        (n, process)
    }

    fn kill(&mut self, kind: &str, context: &mut Context<'_>) -> Undo<Self> {
        self.any(kind, context).1.role.kill_and_restart();
        nothing()
    }

    fn restart(&mut self, kind: &str, context: &mut Context<'_>) -> Undo<Self> {
        self.any(kind, context).1.role.stop_and_restart();
        nothing()
    }

    fn freeze(&mut self, kind: &str, context: &mut Context<'_>) -> Undo<Self> {
        let (n, process) = self.any(kind, context);
        process.role.freeze(true);
        Box::new(move |d, _| d.processes[n].role.freeze(false))
    }

    fn shift_clock(&mut self, kind: &str, context: &mut Context<'_>) -> Undo<Self> {
        let environment = shifted_clock(&mut context.chance);
        let (n, process) = self.any(kind, context);
        process.role.set_environment(environment);
        process.role.stop_and_restart();
        Box::new(move |d, _| {
            d.processes[n].role.set_environment(Vec::new());
            d.processes[n].role.stop_and_restart();
        })
    }

    fn use_up_descriptors(&mut self, kind: &str, context: &mut Context<'_>) -> Undo<Self> {
        let pid = self.any(kind, context).1.role.pid();
        let before = use_up_descriptors(pid);
        Box::new(move |_, _| give_descriptors_back(before))
    }

    /// What lies between a process and a server has a bad time.
    fn weather(&mut self, server: Server, weather: Weather, context: &mut Context<'_>) -> Undo<Self> {
        let kinds: &[&str] = match server {
            Server::Kafka => &ROLES,
            Server::ClickHouse => &ROLES[1..],
            Server::Redis => &["speed", "serve"],
        };
        let kind = *context.chance.pick(kinds);
        let n = self.any(kind, context).0;
        let set = move |d: &Self, weather| match server {
            Server::Kafka => d.cluster.set_door(d.processes[n].door, weather),
            Server::ClickHouse => d.processes[n].clickhouse.set(weather),
            Server::Redis => d.processes[n].redis.set(weather),
        };
        set(self, weather);
        Box::new(move |d, _| set(d, Weather::Clear))
    }

    fn any_broker(context: &mut Context<'_>) -> usize {
        let n = context.chance.below(usize::from(BROKERS));
        context.report.say(&format!("broker {}", n + 1));
        n
    }

    fn between_brokers(&mut self, context: &mut Context<'_>) -> Undo<Self> {
        let (n, weather) = (Self::any_broker(context), *context.chance.pick(&[SILENT, SLOW, CUTTING, CLOSED]));
        context.report.say(&format!("{weather:?}"));
        self.cluster.set_between(n, weather);
        Box::new(move |d, _| d.cluster.set_between(n, Weather::Clear))
    }

    fn redis_setting(&mut self, name: &'static str, value: &str, after: &'static str) -> Undo<Self> {
        self.cluster.redis.ask(&["CONFIG", "SET", name, value]);
        Box::new(move |d, _| drop(d.cluster.redis.ask(&["CONFIG", "SET", name, after])))
    }
}

impl Process {
    fn start(cluster: &Cluster, kind: &'static str, door: usize) -> Self {
        let (clickhouse, redis) = (Proxy::to(cluster.clickhouse_port()), Proxy::to(cluster.redis.port()));
        let servers = Endpoints {
            kafka: cluster.kafka_by_door(door),
            clickhouse: format!("http://127.0.0.1:{}", clickhouse.port()),
            redis: format!("redis://127.0.0.1:{}", redis.port()),
        };
        let way = Way { servers: Some(servers), ..Way::default() };
        let role = Role::by(cluster, kind, &format!("{kind}-{door}"), &way);
        Self { kind, role, door, clickhouse, redis }
    }
}

impl Deployment for Roles {
    fn doors(&self) -> Vec<Client> {
        self.clients("ingest")
    }

    fn nodes(&self) -> Vec<Client> {
        self.clients("serve")
    }

    fn kafka(&self) -> String {
        self.cluster.kafka()
    }

    fn sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String> {
        self.cluster.try_sql(statement)
    }

    fn audit(&self) -> bool {
        let servers = self.cluster.endpoints();
        let mut command = Command::new(binary());
        command.args(["audit", "--kafka", &servers.kafka, "--clickhouse", &servers.clickhouse, "--config"]);
        command.arg(self.cluster.dir().join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().expect("tidemark starts").code() == Some(3)
    }

    fn supervise(&mut self) {
        self.cluster.supervise_engine();
    }

    fn restart_writers(&mut self) {
        for n in self.of("batch") {
            self.processes[n].role.stop_and_restart();
        }
    }

    fn stop(self) {
        self.processes.into_iter().map(|process| process.role).chain(self.joined).for_each(Role::stop);
    }
}

impl Roles {
    fn clients(&self, kind: &str) -> Vec<Client> {
        let url = |n: usize| self.processes[n].role.client.url.clone();
        self.of(kind).into_iter().map(|n| Client::with_timeout(url(n), CLIENT_TIMEOUT)).collect()
    }
}

pub fn faults() -> Vec<Fault<Roles>> {
    vec![
        Fault::kill("ingest is killed", |d, c| d.kill("ingest", c)),
        Fault::kill("a speed layer is killed", |d, c| d.kill("speed", c)),
        Fault::kill("a batch layer is killed", |d, c| d.kill("batch", c)),
        Fault::kill("a serving node is killed", |d, c| d.kill("serve", c)),
        Fault::kill("a broker is killed", |d, c| {
            let n = Roles::any_broker(c);
            d.cluster.kill_broker(n);
            d.cluster.restart_broker(n);
            nothing()
        }),
        Fault::kill("the engine is killed", |d, _| {
            d.cluster.kill_engine();
            d.cluster.restart_engine();
            nothing()
        }),
        Fault::kill("Redis is killed", |d, _| {
            d.cluster.redis.kill();
            d.cluster.redis.restart();
            nothing()
        }),
        Fault::kill("both batch layers and the engine are killed", |d, _| {
            d.cluster.kill_engine();
            let batch = d.of("batch");
            batch.iter().for_each(|n| d.processes[*n].role.kill());
            d.cluster.restart_engine();
            batch.iter().for_each(|n| d.processes[*n].role.restart());
            nothing()
        }),
        Fault::passing("a role is restarted", 0, |d, c| {
            let kind = *c.chance.pick(&ROLES);
            d.restart(kind, c)
        }),
        Fault::passing("all roles are restarted, one after the other", 0, |d, _| {
            d.processes.iter_mut().for_each(|process| process.role.stop_and_restart());
            nothing()
        }),
        Fault::passing("a speed layer joins, and leaves", 5, |d, _| {
            d.joined.push(Role::on(&d.cluster, "speed", "speed-joined"));
            Box::new(|d, _| d.joined.drain(..).for_each(Role::stop))
        }),
        Fault::passing("a batch layer joins, and leaves", 5, |d, _| {
            d.joined.push(Role::on(&d.cluster, "batch", "batch-joined"));
            Box::new(|d, _| d.joined.drain(..).for_each(Role::stop))
        }),
        Fault::blind("ingest stands still", 8, |d, c| d.freeze("ingest", c)),
        Fault::blind("a speed layer stands still, past its session", 9, |d, c| d.freeze("speed", c)),
        Fault::blind("a batch layer stands still, past its session", 9, |d, c| d.freeze("batch", c)),
        Fault::blind("a serving node stands still", 8, |d, c| d.freeze("serve", c)),
        Fault::blind("a broker stands still, past its session", 9, |d, c| {
            let n = Roles::any_broker(c);
            d.cluster.freeze_broker(n, true);
            Box::new(move |d, _| d.cluster.freeze_broker(n, false))
        }),
        Fault::blind("the engine stands still", 8, |d, _| {
            d.cluster.freeze_engine(true);
            Box::new(|d, _| d.cluster.freeze_engine(false))
        }),
        Fault::blind("Redis stands still", 6, |d, _| {
            d.cluster.redis.freeze(true);
            Box::new(|d, _| d.cluster.redis.freeze(false))
        }),
        Fault::blind("between a process and Kafka nothing arrives", 9, |d, c| d.weather(Server::Kafka, SILENT, c)),
        Fault::blind("between a process and Kafka all is slow", 8, |d, c| d.weather(Server::Kafka, SLOW, c)),
        Fault::blind("between a process and Kafka connections are cut", 8, |d, c| d.weather(Server::Kafka, CUTTING, c)),
        Fault::blind("a process cannot connect to Kafka", 8, |d, c| d.weather(Server::Kafka, CLOSED, c)),
        Fault::blind("between a process and ClickHouse nothing arrives", 8, |d, c| d.weather(Server::ClickHouse, SILENT, c)),
        Fault::blind("between a process and ClickHouse all is slow", 8, |d, c| d.weather(Server::ClickHouse, SLOW, c)),
        Fault::blind("between a process and ClickHouse connections are cut", 8, |d, c| d.weather(Server::ClickHouse, CUTTING, c)),
        Fault::blind("a process cannot connect to ClickHouse", 8, |d, c| d.weather(Server::ClickHouse, CLOSED, c)),
        Fault::blind("between a process and Redis nothing arrives", 8, |d, c| d.weather(Server::Redis, SILENT, c)),
        Fault::blind("between a process and Redis all is slow", 8, |d, c| d.weather(Server::Redis, SLOW, c)),
        Fault::blind("between a process and Redis connections are cut", 8, |d, c| d.weather(Server::Redis, CUTTING, c)),
        Fault::blind("a process cannot connect to Redis", 8, |d, c| d.weather(Server::Redis, CLOSED, c)),
        Fault::blind("a broker cannot be reached well by the others", 10, Roles::between_brokers),
        Fault::passing("ingest has another clock, by an hour", 8, |d, c| d.shift_clock("ingest", c)),
        Fault::passing("a speed layer has another clock, by an hour", 15, |d, c| d.shift_clock("speed", c)),
        Fault::passing("a batch layer has another clock, by an hour", 15, |d, c| d.shift_clock("batch", c)),
        Fault::passing("a serving node has another clock, by an hour", 8, |d, c| d.shift_clock("serve", c)),
        Fault::passing("the engine has another clock, by an hour", 15, |d, c| {
            let environment = shifted_clock(&mut c.chance);
            d.cluster.kill_engine();
            d.cluster.restart_engine_with(&environment);
            Box::new(|d, _| {
                d.cluster.kill_engine();
                d.cluster.restart_engine();
            })
        }),
        Fault::passing("a broker has another clock, by an hour", 15, |d, c| {
            let (n, environment) = (Roles::any_broker(c), shifted_clock(&mut c.chance));
            d.cluster.kill_broker(n);
            d.cluster.restart_broker_with(n, &environment);
            Box::new(move |d, _| {
                d.cluster.kill_broker(n);
                d.cluster.restart_broker(n);
            })
        }),
        Fault::blind("ingest has no file descriptor left", 8, |d, c| d.use_up_descriptors("ingest", c)),
        Fault::blind("a speed layer has no file descriptor left", 8, |d, c| d.use_up_descriptors("speed", c)),
        Fault::blind("a batch layer has no file descriptor left", 8, |d, c| d.use_up_descriptors("batch", c)),
        Fault::blind("a serving node has no file descriptor left", 8, |d, c| d.use_up_descriptors("serve", c)),
        Fault::passing("Redis is emptied", 0, |d, _| {
            d.cluster.redis.ask(&["FLUSHALL"]);
            nothing()
        }),
        Fault::passing("Redis has no memory left", 8, |d, _| d.redis_setting("maxmemory", "1", "0")),
        Fault::passing("Redis answers after seconds", 8, |d, _| {
            d.cluster.redis.ask(&["CLIENT", "PAUSE", "3000", "ALL"]);
            nothing()
        }),
        Fault::blind("the engine's disk is full", 8, |d, _| {
            d.engine_disk.iter().for_each(Disk::fill);
            Box::new(|d, _| d.engine_disk.iter().for_each(Disk::free))
        }),
        Fault::passing("a broker's disk is full", 8, |d, _| {
            d.broker_disk.iter().for_each(Disk::fill);
            // A broker ends when its only directory fails.
            Box::new(|d, _| {
                d.cluster.kill_broker(0);
                d.broker_disk.iter().for_each(Disk::free);
                d.cluster.restart_broker(0);
            })
        }),
        Fault::passing("a table has too many parts", 8, fault::too_many_parts),
        Fault::passing("a table is read-only", 8, fault::read_only_table),
        Fault::passing("a view that fills a roll-up is dropped", 8, fault::view_dropped),
        Fault::long("rows below the mark are changed", damage::below_the_mark),
        Fault::long("rows above the mark are changed", damage::above_the_mark),
        Fault::long("the batch layer's group is deleted while it is stopped", |d, _| {
            let batch = d.of("batch");
            batch.iter().for_each(|n| d.processes[*n].role.kill());
            Admin::of(&d.kafka()).delete_group("tidemark-batch-g1");
            batch.iter().for_each(|n| d.processes[*n].role.restart());
            // What history has above the marks is deleted, an epoch at a time, and written again.
            fault::wait_written(d);
            nothing()
        }),
        Fault::passing("the topic forgets what history has", 0, fault::retention),
        Fault::once("the topic gets another partition", fault::partition_added),
    ]
}
