//! `/v1/status`: what became of all records, at every look, while epochs close.

use crate::site::{Door, Site};
use serde_json::{Value, json};
use tidemark_core::offset::Partition;
use tidemark_snapshot::Server;
use tidemark_tests::redis::Redis;
use tidemark_topic::now_ms;

/// Epochs of eight records.
const EPOCH_BITS: u8 = 3;

/// The account of the one partition. It adds up, and it goes as far as counting has come.
async fn account(door: &Door) -> Option<Value> {
    let status = door.status().await;
    let partition = &status["partitions"][0];
    let account = partition.get("accounted").filter(|account| account.is_object())?;
    let of = |name: &str| account[name].as_u64().expect("a number");
    let sum = of("events") + of("duplicates") + of("dead_letters") + of("holes");
    assert_eq!(sum, of("to") - of("from"), "{partition}");
    assert_eq!((of("from"), of("to")), (0, partition["speed"].as_u64().expect("a number")), "{partition}");
    Some(account.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_all_records_adds_up_while_epochs_close() {
    let redis = Redis::start();
    let site = Site::start(EPOCH_BITS, Some(Server { urls: vec![redis.url()], ..Server::default() }));
    let (here, elsewhere) = (site.here(), site.elsewhere());
    here.until("partitions are ready", |engine| engine.live.positions().iter().len() == 1).await;
    elsewhere.until("there are snapshots", |engine| engine.live.trouble().is_none()).await;
    // Of five records one is sent again, and one is no event.
    for n in 0..20 {
        let event = |id: u64| json!({"event_type": "a", "timestamp": 1_767_225_600_000_u64, "event_id": format!("{n}-{id}")});
        for event in [event(0), event(1), event(0), event(2)] {
            site.append(&event);
        }
        site.log.append(Partition(0), now_ms(), Some(b"<script>"));
        here.counted(5 * (n + 1)).await;
        let known = account(&here).await.expect("history answers");
        assert_eq!(known["events"].as_u64(), Some(3 * (n + 1)), "{known}");
        account(&elsewhere).await;
    }
    let all = json!({"from": 0, "to": 100, "events": 60, "duplicates": 20, "dead_letters": 20, "holes": 0});
    for door in [&here, &elsewhere] {
        door.until("all complete epochs are closed", |engine| {
            engine.live.status().values().all(|at| at.waterline.mark.oldest_open().0 == 12 && at.waterline.position.get() == 100)
        })
        .await;
        assert_eq!(account(door).await, Some(all.clone()));
        assert_eq!(door.status().await["ledger"], json!({"repairing": [], "damaged": [], "revision": 0, "trouble": null}));
    }
    site.stop();
}
