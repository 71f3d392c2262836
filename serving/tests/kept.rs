//! An answer that is sent again is the one that a new question would get: through the HTTP routes, over both layers'
//! loops, with the log and history in memory.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidemark_batch_layer::Batch;
use tidemark_batch_layer::lane::BlockLimits;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::view::Views;
use tidemark_history::memory::MemoryHistory;
use tidemark_serving::api::{Routes, routes};
use tidemark_serving::engine::Engine;
use tidemark_serving::kept::Form;
use tidemark_speed_layer::Speed;
use tidemark_speed_layer::reread::{LogYard, now_ms};
use tidemark_topic::Membership;
use tidemark_topic::memory::MemoryLog;
use tower::ServiceExt as _;

const PATIENCE: Duration = Duration::from_secs(30);
/// Epochs of four offsets.
const EPOCH_BITS: u8 = 2;
const BY_TYPE: &str = "step=5m&group_by=event_type";
const RAW: &str = "where=product_id:none&at_least=0:1";

/// A topic of one partition, and all that counts and answers.
struct Site {
    log: MemoryLog,
    engine: Arc<Engine<MemoryHistory>>,
    routes: Router,
    layers: Vec<JoinHandle<()>>,
}

impl Site {
    fn start() -> Self {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(EPOCH_BITS).expect("valid");
        let rules = Arc::new(Rules { generation: Generation(1), epoch_bits, views, limits: Limits::default(), dedup: false });
        let (log, history) = (MemoryLog::new("kept", 1), Arc::new(MemoryHistory::new(Arc::clone(&rules))));
        let (speed, batch) = (Arc::new(Speed::new(Arc::clone(&rules))), Batch::default());
        let runtime = tokio::runtime::Handle::current();
        let everything = Membership::all();
        let speed_thread = std::thread::spawn({
            let (consumer, history, speed) = (log.consumer(everything.clone()), Arc::clone(&history), Arc::clone(&speed));
            let (reached, runtime) = (batch.reached(), runtime.clone());
            move || tidemark_speed_layer::run::run(consumer, &*history, reached, &speed, &runtime).expect("runs until it is stopped")
        });
        let batch_thread = std::thread::spawn({
            let group = Membership::Group { group: "batch".into(), instance: None, session_timeout: Duration::from_secs(10) };
            let (consumer, history, rules, batch) = (log.consumer(group), Arc::clone(&history), Arc::clone(&rules), batch.clone());
            let limits = BlockLimits { max_age: Duration::from_millis(1), ..BlockLimits::default() };
            move || tidemark_batch_layer::run(consumer, history, rules, limits, batch, runtime).expect("runs until it is stopped")
        });
        let connect = {
            let log = log.clone();
            move || Ok(log.consumer(everything.clone()))
        };
        let yard = LogYard { rules: Arc::clone(&rules), connect: Arc::new(connect) };
        tokio::spawn(tidemark_speed_layer::run::close_epochs(Arc::clone(&speed), Arc::clone(&history), yard, batch.reached()));
        let engine = Arc::new(Engine::new(rules, "kept".into(), 1, speed, batch, history));
        let Routes { open, read, admin } = routes(&engine);
        Self { log, routes: open.merge(read).merge(admin), engine, layers: vec![speed_thread, batch_thread] }
    }

    fn append(&self, event_type: &str) {
        let event = json!({"event_type": event_type, "timestamp": "2026-01-01T00:00:00Z"}).to_string();
        self.log.append(Partition(0), now_ms(), Some(event.as_bytes()));
    }

    async fn get(&self, query: &str, headers: &[(header::HeaderName, &str)]) -> Response<Body> {
        let request =
            headers.iter().fold(Request::get(format!("/v1/query?{query}")), |request, (name, value)| request.header(name, *value));
        self.routes.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("routes do not fail")
    }

    async fn text(&self, query: &str, headers: &[(header::HeaderName, &str)]) -> String {
        let response = self.get(query, headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    async fn ask(&self, query: &str) -> Value {
        serde_json::from_str(&self.text(query, &[]).await).expect("JSON")
    }

    /// Waits until both layers say that they have counted up to here.
    async fn counted(&self, position: u64) {
        self.ask(&format!("at_least=0:{position}")).await;
    }

    /// Waits until something is so, which nothing tells of.
    async fn until(&self, what: &str, is_so: impl Fn(&Engine<MemoryHistory>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.engine) {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn is_kept(&self, query: &str) -> bool {
        self.engine.kept.get(&(query.to_owned(), Form::Json), &self.engine.speed).await.is_some()
    }

    fn stop(self) {
        self.engine.speed.control.stop();
        self.engine.batch.control.stop();
        self.layers.into_iter().for_each(|layer| layer.join().expect("no panic"));
    }
}

/// What an answer says, but for the time that it took.
fn said(answer: &Value) -> (u64, &Value, &Value, &Value) {
    let count = answer["rows"].as_array().expect("rows").iter().map(|row| row["count"].as_u64().expect("a count")).sum();
    (count, &answer["cut"]["0"], &answer["mark"]["0"], &answer["end"]["0"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_sent_again_only_while_nothing_has_moved() {
    let site = Site::start();
    site.until("partitions are ready", |engine| engine.speed.positions().iter().len() == 1).await;
    site.engine.batch.control.pause(true);
    site.append("a");
    site.counted(1).await;
    site.until("the log's end is known", |engine| engine.speed.ends().get(Partition(0)) == NextOffset::new(1)).await;
    let first = site.ask(BY_TYPE).await;
    assert_eq!(said(&first), (1, &json!(1), &json!(0), &json!(1)));
    assert!(site.is_kept(BY_TYPE).await);
    assert_eq!(said(&site.ask(BY_TYPE).await), said(&first));

    // An event.
    site.append("b");
    site.counted(2).await;
    let second = site.ask(BY_TYPE).await;
    assert_eq!((said(&second).0, said(&second).1), (2, &json!(2)));

    site.append("c");
    site.counted(3).await;
    assert_eq!(said(&site.ask(BY_TYPE).await).0, 3);
    let late = site.get(&format!("{BY_TYPE}&at_least=0:4&timeout_ms=1"), &[]).await;
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);

    // The mark alone: a closed epoch.
    site.append("d");
    site.counted(4).await;
    site.until("the log's end is known", |engine| engine.speed.ends().get(Partition(0)) == NextOffset::new(4)).await;
    assert_eq!(said(&site.ask(BY_TYPE).await), (4, &json!(4), &json!(0), &json!(4)));
    assert!(site.is_kept(BY_TYPE).await);
    site.engine.batch.control.pause(false);
    site.until("an epoch is closed", |engine| engine.speed.meters.closed.get() == 1).await;
    assert_eq!(said(&site.ask(BY_TYPE).await), (4, &json!(4), &json!(4), &json!(4)));
    site.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_its_own_query_and_form() {
    let site = Site::start();
    site.append("a");
    site.until("partitions are ready", |engine| engine.speed.positions().iter().len() == 1).await;
    site.counted(1).await;
    site.until("the log's end is known", |engine| engine.speed.ends().get(Partition(0)) == NextOffset::new(1)).await;
    for _ in 0..2 {
        assert_eq!(said(&site.ask(BY_TYPE).await).0, 1);
        assert_eq!(said(&site.ask("step=5m&where=event_type:none").await).0, 0);
        // No view has products: raw events are asked, and what these answers are made of is not all said by their cut.
        assert_eq!(said(&site.ask(RAW).await).0, 0);
        assert!(!site.is_kept(RAW).await);
        let csv = site.text(BY_TYPE, &[(header::ACCEPT, "text/csv")]).await;
        assert_eq!(csv, "window,event_type,count\r\n2026-01-01T00:00:00.000Z,a,1\r\n");
    }
    let answer = site.get(BY_TYPE, &[]).await;
    assert_eq!(answer.headers()["tidemark-cut"], "0:1");
    let known = answer.headers()[header::ETAG].to_str().expect("text").to_owned();
    let known = [(header::IF_NONE_MATCH, &*known)];
    assert_eq!(site.get(BY_TYPE, &known).await.status(), StatusCode::NOT_MODIFIED);
    site.append("a");
    site.counted(2).await;
    assert_eq!(site.get(BY_TYPE, &known).await.status(), StatusCode::OK);
    site.stop();
}
