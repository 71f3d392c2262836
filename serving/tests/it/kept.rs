//! An answer that is sent again is the one that a new question would get: through the HTTP routes, over both layers'
//! loops, with the log and history in memory.

use crate::site::Site;
use axum::http::{StatusCode, header};
use serde_json::{Value, json};
use tidemark_core::offset::{NextOffset, Partition};

const BY_TYPE: &str = "step=5m&group_by=event_type";
const RAW: &str = "where=product_id:none&at_least=0:1";

/// Epochs of four offsets.
const EPOCH_BITS: u8 = 2;

fn append(site: &Site, event_type: &str) {
    site.append(&json!({"event_type": event_type, "timestamp": "2026-01-01T00:00:00Z"}));
}

/// What an answer says, but for the time that it took.
fn said(answer: &Value) -> (u64, &Value, &Value, &Value) {
    let count = answer["rows"].as_array().expect("rows").iter().map(|row| row["count"].as_u64().expect("a count")).sum();
    (count, &answer["cut"]["0"], &answer["mark"]["0"], &answer["end"]["0"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_sent_again_only_while_nothing_has_moved() {
    let site = Site::start(EPOCH_BITS, None);
    let door = site.here();
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    site.batch.control.pause(true);
    append(&site, "a");
    door.counted(1).await;
    door.until("the log's end is known", |engine| engine.live.ends().get(Partition(0)) == NextOffset::new(1)).await;
    let first = door.ask(BY_TYPE).await;
    assert_eq!(said(&first), (1, &json!(1), &json!(0), &json!(1)));
    assert!(door.is_kept(BY_TYPE).await);
    assert_eq!(said(&door.ask(BY_TYPE).await), said(&first));

    // An event.
    append(&site, "b");
    door.counted(2).await;
    let second = door.ask(BY_TYPE).await;
    assert_eq!((said(&second).0, said(&second).1), (2, &json!(2)));

    append(&site, "c");
    door.counted(3).await;
    assert_eq!(said(&door.ask(BY_TYPE).await).0, 3);
    let late = door.get(&format!("{BY_TYPE}&at_least=0:4&timeout_ms=1"), &[]).await;
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);

    // The mark alone: a closed epoch.
    append(&site, "d");
    door.counted(4).await;
    door.until("the log's end is known", |engine| engine.live.ends().get(Partition(0)) == NextOffset::new(4)).await;
    assert_eq!(said(&door.ask(BY_TYPE).await), (4, &json!(4), &json!(0), &json!(4)));
    assert!(door.is_kept(BY_TYPE).await);
    site.batch.control.pause(false);
    door.until("an epoch is closed", |_| site.speed.meters.closed.get() == 1).await;
    assert_eq!(said(&door.ask(BY_TYPE).await), (4, &json!(4), &json!(4), &json!(4)));
    site.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_its_own_query_and_form() {
    let site = Site::start(EPOCH_BITS, None);
    let door = site.here();
    append(&site, "a");
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    door.counted(1).await;
    door.until("the log's end is known", |engine| engine.live.ends().get(Partition(0)) == NextOffset::new(1)).await;
    for _ in 0..2 {
        assert_eq!(said(&door.ask(BY_TYPE).await).0, 1);
        assert_eq!(said(&door.ask("step=5m&where=event_type:none").await).0, 0);
        // No view has products: raw events are asked, and what these answers are made of is not all said by their cut.
        assert_eq!(said(&door.ask(RAW).await).0, 0);
        assert!(!door.is_kept(RAW).await);
        let csv = door.text(BY_TYPE, &[(header::ACCEPT, "text/csv")]).await;
        assert_eq!(csv, "window,event_type,count\r\n2026-01-01T00:00:00.000Z,a,1\r\n");
    }
    let answer = door.get(BY_TYPE, &[]).await;
    assert_eq!(answer.headers()["tidemark-cut"], "0:1");
    let known = answer.headers()[header::ETAG].to_str().expect("text").to_owned();
    let known = [(header::IF_NONE_MATCH, &*known)];
    assert_eq!(door.get(BY_TYPE, &known).await.status(), StatusCode::NOT_MODIFIED);
    append(&site, "a");
    door.counted(2).await;
    assert_eq!(door.get(BY_TYPE, &known).await.status(), StatusCode::OK);
    site.stop();
}
