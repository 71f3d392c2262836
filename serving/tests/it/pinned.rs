//! An answer's permalink gives its rows again, the same bytes each time: after epochs have closed, after the speed layer has
//! begun anew, and while other events come in.

use crate::site::{Door, Site};
use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use std::io::Read as _;
use tidemark_core::offset::Partition;

const ALL: &str = "measures=count,amount_count,sum,avg,min,max";
const QUESTIONS: [&str; 6] = [
    "step=total",
    "step=5m&group_by=event_type",
    "step=1h&group_by=event_type&from=2026-01-01T00:30:00Z",
    "group_by=event_type&top=2:count",
    // No view has products: raw events answer.
    "step=5m&group_by=product_id",
    "where=product_id:p1",
];

/// Windows of three hours, most in order of time and one in fifty late.
fn event(chance: &mut StdRng, n: i64) -> Value {
    let late = if chance.random_ratio(1, 50) { chance.random_range(0..36) } else { 0 };
    let event_type = ["a", "b", "c"][chance.random_range(0..3usize)];
    json!({
        "event_type": event_type,
        "timestamp": 1_767_225_600_000i64 + (n / 20 - late).max(0) * 300_000,
        "product_id": format!("p{}", chance.random_range(0..5u8)),
        "order_amount": chance.random_ratio(1, 3).then(|| chance.random_range(-99..99i8)),
    })
}

/// Where an answer stays, and its rows.
struct Taken {
    link: String,
    rows: Value,
}

fn link(headers: &HeaderMap) -> String {
    let link = headers[header::LINK].to_str().expect("text");
    link.strip_prefix("</v1/query?").and_then(|link| link.strip_suffix(">; rel=\"permalink\"")).expect("a permalink").to_owned()
}

async fn body(response: Response<Body>) -> Vec<u8> {
    axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body").to_vec()
}

async fn take(door: &Door, question: &str) -> Taken {
    let answer = door.get(&format!("{question}&{ALL}"), &[]).await;
    assert_eq!(answer.status(), StatusCode::OK, "{question}");
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
    let link = link(answer.headers());
    let mut json: Value = serde_json::from_slice(&body(answer).await).expect("JSON");
    Taken { link, rows: json["rows"].take() }
}

/// Asks for what was taken; gives the bytes.
async fn check(door: &Door, Taken { link: at, rows }: &Taken, when: &str) -> Vec<u8> {
    let answer = door.get(at, &[]).await;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = body(answer).await;
    assert_eq!(status, StatusCode::OK, "{at} {when}: {}", String::from_utf8_lossy(&bytes));
    assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
    assert!(headers[header::ETAG].to_str().expect("text").starts_with('"'));
    assert_eq!(&link(&headers), at);
    let json: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(json["rows"], *rows, "{at} {when}");
    assert!(json.get("took_ms").is_none() && json.get("mark").is_none() && json.get("end").is_none(), "{json}");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permalink_gives_the_same_bytes_for_ever() {
    let mut site = Site::start(3, None);
    let (door, mut chance) = (site.here(), StdRng::seed_from_u64(7));
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    // Raw events are asked at H.
    door.until("H is known", |engine| engine.reached.borrow().iter().len() == 1).await;
    let (mut taken, mut appended) = (Vec::new(), 0);
    for _ in 0..80 {
        for _ in 0..chance.random_range(1..12) {
            site.append(&event(&mut chance, appended));
            appended += 1;
        }
        taken.push(take(&door, QUESTIONS[chance.random_range(0..QUESTIONS.len())]).await);
    }
    let mut bytes = Vec::new();
    for taken in &taken {
        bytes.push(check(&door, taken, "soon after").await);
    }
    let closed = u64::try_from(appended).expect("positive") / 8;
    door.until("full epochs are closed", |_| site.speed.meters.closed.get() == closed).await;
    site.replace_speed();
    // Another engine, which has kept nothing.
    let door = site.here();
    for (taken, bytes) in taken.iter().zip(&bytes) {
        assert_eq!(&check(&door, taken, "after closing and a restart").await, bytes);
    }
    site.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_no_answer_can_have_had_is_refused_and_one_that_history_is_behind_is_waited_for() {
    let site = Site::start(3, None);
    let door = site.here();
    site.batch.control.pause(true);
    site.append(&json!({"event_type": "a", "timestamp": 1_767_225_600_000i64}));
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    door.counted(1).await;
    let check = async |query: &str, status: StatusCode, says: &str| {
        let answer = door.get(query, &[]).await;
        let found = answer.status();
        let text = String::from_utf8(body(answer).await).expect("text");
        assert!(found == status && text.contains(says), "{query}: {found} {text}");
    };
    door.until("the log's end is known", |engine| engine.live.ends().get(Partition(0)).get() == 1).await;
    check("at=0:2&timeout_ms=10", StatusCode::BAD_REQUEST, "partition 0 ends at offset 1, below the cut's 2").await;
    check("at=1:1", StatusCode::BAD_REQUEST, "names partition 1").await;
    check("at=2/0:1", StatusCode::BAD_REQUEST, "names generation 2, and the newest is 1").await;
    check("at=0/0:1", StatusCode::BAD_REQUEST, "names generation 0").await;
    check("at=0:1&timeout_ms=10", StatusCode::GATEWAY_TIMEOUT, "has not been reached in time").await;
    let asked = door.get("at=1/0:1", &[]);
    let resumed = async {
        tokio::task::yield_now().await;
        site.batch.control.pause(false);
    };
    let (answer, ()) = tokio::join!(asked, resumed);
    let json: Value = serde_json::from_slice(&body(answer).await).expect("JSON");
    assert_eq!(json, json!({"rows": [{"count": 1}], "cut": {"0": 1}, "generation": 1, "exact": true}));
    // A cut alone means whatever rules answer then, which may be others some day.
    assert_eq!(door.get("at=0:1", &[]).await.headers()[header::CACHE_CONTROL], "no-cache");
    site.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_packed_as_the_client_wants_and_its_tag_says_how() {
    let site = Site::start(3, None);
    let door = site.here();
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    for n in 0..200 {
        site.append(&json!({"event_type": "a", "timestamp": 1_767_225_600_000i64 + n * 300_000}));
    }
    door.counted(200).await;
    let plain = door.text("step=5m", &[]).await;
    let rows = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["rows"].clone();
    for _ in 0..2 {
        let zstd = door.get("step=5m", &[(header::ACCEPT_ENCODING, "gzip, zstd")]).await;
        assert_eq!([header::CONTENT_ENCODING, header::VARY].map(|name| &zstd.headers()[name]), ["zstd", "accept-encoding"]);
        assert!(zstd.headers().get_all(header::VARY).iter().any(|vary| vary == "accept"));
        assert_eq!(rows(&String::from_utf8(zstd::decode_all(&*body(zstd).await).expect("zstd")).expect("text")), rows(&plain));
        let gzip = door.get("step=5m", &[(header::ACCEPT_ENCODING, "gzip")]).await;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*body(gzip).await).read_to_string(&mut text).expect("gzip");
        assert_eq!(rows(&text), rows(&plain));
    }
    let csv = [(header::ACCEPT, "text/csv"), (header::ACCEPT_ENCODING, "gzip")];
    let tag = door.get("step=5m", &csv).await.headers()[header::ETAG].to_str().expect("text").to_owned();
    assert!(tag.ends_with("-gzip\""), "{tag}");
    let known = [csv[0].clone(), csv[1].clone(), (header::IF_NONE_MATCH, &*tag)];
    let not_modified = door.get("step=5m", &known).await;
    assert_eq!(not_modified.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(not_modified.headers()[header::ETAG], tag);
    let small = door.get("", &[(header::ACCEPT_ENCODING, "gzip")]).await;
    assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
    let columns = [(header::ACCEPT, "application/vnd.apache.parquet"), (header::ACCEPT_ENCODING, "gzip")];
    assert!(!door.get("step=5m", &columns).await.headers().contains_key(header::CONTENT_ENCODING));
    site.stop();
}
