//! `tidemark up`: everything in one process tree, and a proxy on its clients' way.

use crate::damage;
use crate::disk::Disk;
use crate::fault::{self, Deployment, Fault, Undo, nothing};
use crate::process::{give_descriptors_back, shifted_clock, use_up_descriptors};
use crate::run::{CLIENT_TIMEOUT, CONFIG};
use std::process::{Command, Stdio};
use std::time::Duration;
use tidemark_tests::client::Client;
use tidemark_tests::proxy::{Proxy, Weather};
use tidemark_tests::server::{Server, Site, binary, free_port, freeze};

const DISK_MIB: u32 = 1024;

pub struct Up {
    /// Absent only while it is replaced.
    server: Option<Server>,
    clients: Proxy,
    /// Before the site, whose directory it is in.
    disk: Option<Disk>,
    site: Site,
}

impl Up {
    pub fn start() -> Self {
        // Producers connect directly, so Kafka comes back where it was.
        let site = Site::new(&CONFIG.replace("[counting]", &format!("port = {}\n[counting]", free_port())));
        let disk = Disk::mount(&site.data(), DISK_MIB);
        let server = site.up();
        let port = server.client.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address has a port");
        Self { server: Some(server), clients: Proxy::to(port), site, disk }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    fn kill_and_start(&mut self, environment: &[(String, String)]) {
        self.server.take().expect("it runs").kill();
        self.server = Some(self.site.up_with(environment));
    }

    fn stop_and_start(&mut self, environment: &[(String, String)]) {
        self.server.take().expect("it runs").stop();
        self.server = Some(self.site.up_with(environment));
    }

    fn freeze(&mut self, which: fn(&Server) -> Option<u32>) -> Undo<Self> {
        let pid = which(self.server()).expect("it runs");
        freeze(pid, true);
        Box::new(move |_, _| freeze(pid, false))
    }

    fn weather(&mut self, weather: Weather) -> Undo<Self> {
        self.clients.set(weather);
        Box::new(|d, _| d.clients.set(Weather::Clear))
    }

    fn pause(&mut self, layer: &'static str) -> Undo<Self> {
        self.server().client.steer(layer, "pause");
        Box::new(move |d, _| d.server().client.steer(layer, "resume"))
    }

    fn client(&self) -> Vec<Client> {
        vec![Client::with_timeout(format!("http://127.0.0.1:{}", self.clients.port()), CLIENT_TIMEOUT)]
    }
}

impl Deployment for Up {
    fn doors(&self) -> Vec<Client> {
        self.client()
    }

    fn nodes(&self) -> Vec<Client> {
        self.client()
    }

    fn kafka(&self) -> String {
        self.server().runtime().kafka
    }

    fn sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String> {
        self.server().try_sql(statement)
    }

    fn audit(&self) -> bool {
        let mut command = Command::new(binary());
        command.arg("audit").arg("--data").arg(self.site.data()).arg("--config").arg(self.site.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("tidemark starts").code() == Some(3)
    }

    fn restart_writers(&mut self) {
        self.stop_and_start(&[]);
    }

    fn stop(mut self) {
        self.server.take().expect("it runs").stop();
    }
}

pub fn faults() -> Vec<Fault<Up>> {
    vec![
        Fault::kill("everything is killed", |d, _| {
            d.kill_and_start(&[]);
            nothing()
        }),
        Fault::kill("the engine is killed", |d, _| {
            if let Some(pid) = d.server().kill_engine() {
                d.server().wait_recovered(pid);
            }
            nothing()
        }),
        Fault::kill("Kafka is killed", |d, _| {
            if let Some(pid) = d.server().kill_kafka() {
                d.server().wait_recovered(pid);
            }
            nothing()
        }),
        Fault::passing("everything is restarted", 0, |d, _| {
            d.stop_and_start(&[]);
            nothing()
        }),
        Fault::blind("tidemark stands still", 9, |d, _| d.freeze(|server| Some(server.pid()))),
        Fault::blind("the engine stands still", 8, |d, _| d.freeze(|server| server.runtime().engine_pid)),
        Fault::blind("Kafka stands still", 9, |d, _| d.freeze(|server| server.runtime().kafka_pid)),
        Fault::blind("between clients and tidemark nothing arrives", 5, |d, _| d.weather(Weather::Silent)),
        Fault::blind("between clients and tidemark all is slow", 5, |d, _| d.weather(Weather::Slow(Duration::from_millis(200)))),
        Fault::blind("between clients and tidemark connections are cut", 5, |d, _| d.weather(Weather::Cutting(5_000))),
        Fault::blind("clients cannot connect", 5, |d, _| d.weather(Weather::Closed)),
        Fault::passing("the machine has another clock, by an hour", 15, |d, c| {
            d.stop_and_start(&shifted_clock(&mut c.chance));
            Box::new(|d, _| d.stop_and_start(&[]))
        }),
        Fault::blind("tidemark has no file descriptor left", 8, |d, _| {
            let pid = d.server().pid();
            let before = use_up_descriptors(pid);
            Box::new(move |_, _| give_descriptors_back(before))
        }),
        Fault::blind("the engine has no file descriptor left", 8, |d, _| {
            let pid = d.server().runtime().engine_pid.expect("it runs");
            let before = use_up_descriptors(pid);
            Box::new(move |_, _| give_descriptors_back(before))
        }),
        Fault::passing("the speed layer is paused", 8, |d, _| d.pause("speed")),
        Fault::passing("the batch layer is paused", 8, |d, _| d.pause("batch")),
        Fault::blind("the disk is full", 8, |d, _| {
            d.disk.iter().for_each(Disk::fill);
            Box::new(|d, _| d.disk.iter().for_each(Disk::free))
        }),
        Fault::passing("a table has too many parts", 8, fault::too_many_parts),
        Fault::passing("a table is read-only", 8, fault::read_only_table),
        Fault::passing("a view that fills a roll-up is dropped", 8, fault::view_dropped),
        Fault::long("rows below the mark are changed", damage::below_the_mark),
        Fault::long("rows above the mark are changed", damage::above_the_mark),
        Fault::passing("the topic forgets what history has", 0, fault::retention),
        Fault::once("the topic gets another partition", fault::partition_added),
    ]
}
