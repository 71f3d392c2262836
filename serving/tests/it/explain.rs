//! An explanation adds up to its number, from the first event to the last.

use crate::site::{Door, Site};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tidemark_core::offset::Partition;

/// 2026-01-01T00:00:00Z
const START_MS: i64 = 1_767_225_600_000;
const MINUTE_MS: i64 = 60_000;

/// Epochs of four offsets.
const EPOCH_BITS: u8 = 2;

async fn explained(door: &Door, path: &str) -> (StatusCode, Value) {
    let answer = door.fetch(path, &[]).await;
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a whole body");
    (status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_explained_by_its_epochs_its_late_events_and_what_was_not_counted() {
    let site = Site::start(EPOCH_BITS, None);
    let door = site.here();
    door.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    let event = |minute: i64, event_type: &str, amount: i64| {
        site.append(&json!({"event_type": event_type, "timestamp": START_MS + minute * MINUTE_MS, "order_amount": amount}));
    };
    // Epoch 0: two of the window, one of another type, one no event at all.
    event(0, "a", 1);
    event(1, "b", 1);
    site.append(&json!({"event_type": "a"}));
    event(4, "a", 2);
    // Epoch 1: the window is over, and nine minutes behind; then one comes that is late, and one that is not.
    event(9, "a", 1);
    event(14, "a", 1);
    event(2, "a", 4);
    event(13, "b", 1);
    // Epoch 2, which stays open.
    event(3, "a", 8);
    door.counted(9).await;
    door.until("full epochs are closed", |_| site.speed.meters.closed.get() == 2).await;
    door.until("history has all", |engine| engine.reached.borrow().get(Partition(0)).get() == 9).await;

    let path = format!("/v1/explain?step=5m&group_by=event_type&window={START_MS}&group=event_type:a");
    let (status, all) = explained(&door, &path).await;
    assert_eq!(status, StatusCode::OK, "{all}");
    assert_eq!(
        all["number"],
        json!({"count": 4, "amount_count": 4, "sum": "15.0000", "avg": "3.750000", "min": "1.0000", "max": "8.0000"})
    );
    assert_eq!((&all["cut"], &all["late"], &all["phase"]), (&json!({"0": 9}), &json!(2), &json!("final")));
    let epochs: Vec<Value> = all["epochs"].as_array().expect("epochs").clone();
    let shown = |epoch: &Value| {
        ["epoch", "layer", "first_offset", "last_offset", "count", "late"].map(|name| epoch[name].to_string()).join(" ").replace('"', "")
    };
    assert_eq!(epochs.iter().map(shown).collect::<Vec<_>>(), ["0 history 0 3 2 0", "1 history 6 6 1 1", "2 speed 8 8 1 1"]);
    assert_eq!(all["uncounted"], json!([{"partition": 0, "reason": "missing_timestamp", "records": 1}]));
    let offsets = |page: &Value| -> Vec<(u64, bool)> {
        let place = |event: &Value| (event["offset"].as_u64().expect("an offset"), event["late"].as_bool().expect("known"));
        page["events"].as_array().expect("events").iter().map(place).collect()
    };
    assert_eq!((offsets(&all), &all["next"]), (vec![(0, false), (3, false), (6, true), (8, true)], &Value::Null));

    // By pages, all of one cut though more comes.
    let (_, first) = explained(&door, &format!("{path}&limit=3")).await;
    event(4, "a", 16);
    door.counted(10).await;
    door.until("history has more", |engine| engine.reached.borrow().get(Partition(0)).get() == 10).await;
    let (_, second) = explained(&door, first["next"].as_str().expect("a next page")).await;
    assert_eq!((offsets(&first).len(), offsets(&second), &second["number"]), (3, vec![(8, true)], &all["number"]));
    assert_eq!(second["next"], Value::Null);

    // A range without an end is never over.
    let (_, open) = explained(&door, "/v1/explain?limit=0").await;
    assert_eq!(
        (&open["number"]["count"], &open["late"], &open["phase"], &open["to"]),
        (&json!(9), &json!(null), &json!(null), &json!(null))
    );
    let (status, nothing) = explained(&door, "/v1/explain?where=event_type:none").await;
    assert_eq!((status, &nothing["number"]["count"], &nothing["epochs"]), (StatusCode::OK, &json!(0), &json!([])));
    let (status, refused) = explained(&door, "/v1/explain?step=5m").await;
    assert_eq!((status, refused["status"].as_u64()), (StatusCode::BAD_REQUEST, Some(400)), "{refused}");
    site.stop();
}
