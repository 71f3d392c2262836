//! A topic of one partition in memory, what counts it, and doors to ask at.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use serde_json::Value;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidemark_batch_layer::Batch;
use tidemark_batch_layer::lane::BlockLimits;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::Partition;
use tidemark_core::view::Views;
use tidemark_history::memory::MemoryHistory;
use tidemark_serving::api::{Routes, routes};
use tidemark_serving::engine::{Engine, Layers};
use tidemark_serving::live::Live;
use tidemark_serving::snapshots::Snapshots;
use tidemark_serving::written::Form;
use tidemark_snapshot::{Server, Store};
use tidemark_speed_layer::Speed;
use tidemark_speed_layer::reread::LogYard;
use tidemark_topic::Membership;
use tidemark_topic::PartitionCount;
use tidemark_topic::memory::MemoryLog;
use tidemark_topic::now_ms;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(2);

/// The topic and both layers.
pub struct Site {
    pub log: MemoryLog,
    rules: Arc<Rules>,
    history: Arc<MemoryHistory>,
    pub batch: Batch,
    writing: JoinHandle<()>,
    redis: Option<Server>,
    pub speed: Arc<Speed>,
    counting: JoinHandle<()>,
}

/// An engine's HTTP interface.
pub struct Door {
    pub engine: Arc<Engine>,
    routes: Router,
}

impl Site {
    pub fn start(epoch_bits: u8, redis: Option<Server>) -> Self {
        let mut declared = vec![("by_type", vec!["event_type"])];
        // With one view alone, some questions go to raw events.
        declared.extend(redis.is_some().then(|| ("by_product", vec!["event_type", "product_id"])));
        let views = Views::declare(declared).expect("valid");
        let epoch_bits = EpochBits::new(epoch_bits).expect("valid");
        let rules = Arc::new(Rules {
            generation: Generation(1),
            widens: None,
            epoch_bits,
            views,
            limits: Limits::default(),
            dedup: redis.is_some(),
        });
        let (log, history) = (MemoryLog::new("site", 1), Arc::new(MemoryHistory::new(Arc::clone(&rules))));
        let batch = Batch::default();
        let writing = std::thread::spawn({
            let group = Membership::Group { group: "batch".into(), instance: None, session_timeout: Duration::from_secs(10) };
            let (consumer, history, rules, batch) = (log.consumer(group), Arc::clone(&history), Arc::clone(&rules), batch.clone());
            let limits = BlockLimits { max_age: Duration::from_millis(1), ..BlockLimits::default() };
            let runtime = tokio::runtime::Handle::current();
            move || tidemark_batch_layer::run(consumer, history, rules, limits, batch, runtime).expect("runs until it is stopped")
        });
        let (speed, counting) = counting(&log, &rules, &history, &batch, redis.as_ref());
        Self { log, rules, history, batch, writing, redis, speed, counting }
    }

    /// Ends the speed layer and begins with another one.
    pub fn replace_speed(&mut self) {
        self.speed.control.stop();
        let (speed, counting) = counting(&self.log, &self.rules, &self.history, &self.batch, self.redis.as_ref());
        self.speed = speed;
        std::mem::replace(&mut self.counting, counting).join().expect("no panic");
    }

    /// Asks the speed layer itself.
    pub fn here(&self) -> Door {
        let layers = Layers { speed: Some(Arc::clone(&self.speed)), batch: Some(self.batch.clone()) };
        self.door(Live::Here(Arc::clone(&self.speed)), layers)
    }

    /// Asks its snapshots.
    pub fn elsewhere(&self) -> Door {
        let store = store(self.redis.as_ref().expect("there is a Redis"), &self.rules);
        let snapshots = Arc::new(Snapshots::new(store, Arc::clone(&self.rules), PartitionCount::new(1)));
        tokio::spawn(Arc::clone(&snapshots).follow());
        self.door(Live::InRedis(snapshots), Layers::default())
    }

    fn door(&self, live: Live, layers: Layers) -> Door {
        let (rules, history) = (Arc::clone(&self.rules), Arc::clone(&self.history));
        let engine = Arc::new(Engine::new(rules, "site".into(), PartitionCount::new(1), live, self.batch.reached(), history, layers));
        let Routes { open, read, admin, .. } = routes(&engine.clone().into());
        Door { routes: open.merge(read).merge(admin), engine }
    }

    pub fn append(&self, event: &Value) {
        self.log.append(Partition(0), now_ms(), Some(event.to_string().as_bytes()));
    }

    pub fn stop(self) {
        self.speed.control.stop();
        self.batch.control.stop();
        self.counting.join().expect("no panic");
        self.writing.join().expect("no panic");
    }
}

fn store(server: &Server, rules: &Rules) -> Arc<Store> {
    Arc::new(Store::new(server, "tidemark", "site", rules.generation, rules.views.clone()).expect("valid"))
}

fn counting(
    log: &MemoryLog,
    rules: &Arc<Rules>,
    history: &Arc<MemoryHistory>,
    batch: &Batch,
    redis: Option<&Server>,
) -> (Arc<Speed>, JoinHandle<()>) {
    let mut speed = Speed::new(Arc::clone(rules));
    let store = redis.map(|server| store(server, rules));
    if let Some(store) = &store {
        speed = speed.with_snapshots(Arc::clone(store));
    }
    let speed = Arc::new(speed);
    let thread = std::thread::spawn({
        let (consumer, history, speed) = (log.consumer(Membership::all()), Arc::clone(history), Arc::clone(&speed));
        let (reached, runtime) = (batch.reached(), tokio::runtime::Handle::current());
        move || tidemark_speed_layer::run::run(consumer, &*history, reached, &speed, &runtime).expect("runs until it is stopped")
    });
    let connect = {
        let log = log.clone();
        move || Ok(log.consumer(Membership::all()))
    };
    let yard = LogYard { rules: Arc::clone(rules), history: history.clone(), connect: Arc::new(connect), admin: None };
    tokio::spawn(tidemark_speed_layer::run::close_epochs(Arc::clone(&speed), history.clone(), yard, batch.reached()));
    if let Some(store) = store {
        tokio::spawn(tidemark_speed_layer::publish::publish(Arc::clone(&speed), store, TICK));
    }
    (speed, thread)
}

impl Door {
    pub async fn get(&self, query: &str, headers: &[(header::HeaderName, &str)]) -> Response<Body> {
        self.fetch(&format!("/v1/query?{query}"), headers).await
    }

    pub async fn fetch(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> Response<Body> {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, *value));
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.routes.clone().oneshot(request).await.expect("routes do not fail")
    }

    pub async fn text(&self, query: &str, headers: &[(header::HeaderName, &str)]) -> String {
        let response = self.get(query, headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    pub async fn status(&self) -> Value {
        let body = axum::body::to_bytes(self.fetch("/v1/status", &[]).await.into_body(), usize::MAX).await.expect("a whole body");
        serde_json::from_slice(&body).expect("JSON")
    }

    pub async fn ask(&self, query: &str) -> Value {
        serde_json::from_str(&self.text(query, &[]).await).expect("JSON")
    }

    /// Waits until whoever answers has counted up to here.
    pub async fn counted(&self, position: u64) {
        self.ask(&format!("at_least=0:{position}")).await;
    }

    /// Waits until something is so, which nothing tells of.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Engine) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.engine) {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn is_kept(&self, query: &str) -> bool {
        self.engine.kept.get(&(query.to_owned(), Form::Json), &self.engine).await.is_some()
    }
}
