//! Answers from snapshots in a real Redis are those of the speed layer that writes them, whatever happens to either.

use crate::site::{Door, Site};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_snapshot::Server;
use tidemark_tests::redis::Redis;

const P: Partition = Partition(0);
const ALL: &str = "measures=count,amount_count,sum,min,max";
const QUESTIONS: [&str; 7] = [
    "step=total",
    "step=5m&group_by=event_type,product_id",
    "step=1h&group_by=product_id",
    "step=5m&group_by=event_type&from=2026-01-01T00:10:00Z&to=2026-01-01T00:40:00Z",
    "step=total&where=product_id:p1&where=product_id:p3",
    "step=total&where=event_type:none",
    "step=5m&group_by=product_id&where=event_type:a&from=2026-01-01T00:30:00Z",
];

fn server(redis: &Redis) -> Server {
    Server { urls: vec![redis.url()], ..Server::default() }
}

/// Few types and products, windows of some hours, amounts now and then, an id that has been there before.
fn event(chance: &mut StdRng, n: u64) -> Value {
    let product = (!chance.random_ratio(1, 5)).then(|| format!("p{}", chance.random_range(0..40u8)));
    let amount = chance.random_ratio(1, 3).then(|| f64::from(chance.random_range(-999..999i16)) / 4.0);
    json!({
        "event_type": if chance.random_bool(0.7) { "a" } else { "b" },
        "timestamp": 1_767_225_600_000i64 + chance.random_range(0..36i64) * 300_000,
        "product_id": product,
        "order_amount": amount,
        "event_id": format!("e{}", if chance.random_ratio(1, 20) { n.saturating_sub(7) } else { n }),
    })
}

/// What an answer says of itself, and its rows.
fn said(answer: &Value) -> [Value; 4] {
    ["cut", "mark", "end", "rows"].map(|field| answer[field].clone())
}

/// Waits until the snapshots are where the speed layer is, which is at rest, and compares.
async fn check(site: &Site, elsewhere: &Door, appended: u64, what: &str) {
    let (here, end) = (site.here(), NextOffset::new(appended));
    here.until("the speed layer has counted all", |engine| engine.live.positions().get(P) == end).await;
    let bits = here.engine.rules.epoch_bits;
    let open = bits.epoch_at(end);
    let closed = |engine: &tidemark_serving::engine::Engine| engine.live.status().get(&P).map(|at| at.waterline.mark.oldest_open());
    here.until("full epochs are closed", |engine| closed(engine) == Some(open)).await;
    here.until("the log's end is known", |engine| engine.live.ends().get(P) == end).await;
    let same = |engine: &tidemark_serving::engine::Engine| {
        engine.live.positions().get(P) == end && closed(engine) == Some(open) && engine.live.trouble().is_none()
    };
    elsewhere.until("the snapshot has all", same).await;
    for question in QUESTIONS {
        let question = format!("{question}&{ALL}");
        assert_eq!(said(&elsewhere.ask(&question).await), said(&here.ask(&question).await), "{question} after {what} at {appended}");
    }
}

/// Everything that can happen to a Redis and to a speed layer, in any order, while epochs close.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_answers_as_its_owner_does_whatever_happens_to_either() {
    let mut redis = Redis::start();
    let mut site = Site::start(6, Some(server(&redis)));
    let (elsewhere, mut chance) = (site.elsewhere(), StdRng::seed_from_u64(5));
    let mut appended = 0;
    for round in 0..40 {
        let what = match chance.random_range(0..6u8) {
            0 => {
                redis.ask(&["FLUSHALL"]);
                "a flush"
            }
            1 => {
                redis.kill();
                redis.restart();
                "a kill of redis"
            }
            2 => {
                site.replace_speed();
                "another speed layer"
            }
            _ => "more events",
        };
        for _ in 0..chance.random_range(1..150u8) {
            site.append(&event(&mut chance, appended));
            appended += 1;
        }
        check(&site, &elsewhere, appended, &format!("{what} in round {round}")).await;
    }
    site.stop();
}

/// A new owner goes on from the snapshot: what it counts is only what has come since.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_owner_goes_on_from_the_snapshot() {
    let redis = Redis::start();
    let mut site = Site::start(10, Some(server(&redis)));
    let (elsewhere, mut chance) = (site.elsewhere(), StdRng::seed_from_u64(6));
    site.batch.control.pause(true);
    (0..900).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 900, "the first events").await;
    site.replace_speed();
    (900..1000).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 1000, "another speed layer").await;
    assert_eq!(site.speed.meters.counted_records(), 100);
    // Torn: a cell is gone. The log is read from the mark.
    let key = redis.ask(&["EVAL", "for _, key in ipairs(redis.call('KEYS', '*')) do if redis.call('TYPE', key).ok == 'hash' and string.match(key, ':1:%d+$') then redis.call('DEL', key) return key end end", "0"]);
    assert!(key.starts_with('$'), "{key}");
    let torn = elsewhere.ask("step=total&group_by=product_id").await;
    assert_ne!(torn["cut"], json!({"0": 1000}), "a torn snapshot is no answer: history alone says what it has, which is less");
    site.replace_speed();
    (1000..1020).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 1020, "a torn snapshot").await;
    assert_eq!(site.speed.meters.counted_records(), 1020);
    site.stop();
}

/// Where there is no live part, history alone answers, at its own cut, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn without_redis_history_answers_at_its_cut() {
    let mut redis = Redis::start();
    let site = Site::start(6, Some(server(&redis)));
    let (elsewhere, mut chance) = (site.elsewhere(), StdRng::seed_from_u64(7));
    (0..200).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 200, "events").await;
    redis.kill();
    elsewhere.until("redis is missed", |engine| engine.live.trouble().is_some()).await;
    (200..230).for_each(|n| site.append(&event(&mut chance, n)));
    let here = site.here();
    here.counted(230).await;
    for question in QUESTIONS {
        let alone = elsewhere.ask(&format!("{question}&{ALL}&at_least=0:230")).await;
        let both = here.ask(&format!("{question}&{ALL}")).await;
        assert_eq!((&alone["cut"], &alone["rows"]), (&both["cut"], &both["rows"]), "{question}");
    }
    redis.restart();
    check(&site, &elsewhere, 230, "redis is back").await;
    site.stop();
}

/// Who has been taken for dead and is not claims the partition in vain: the owner claims it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_has_been_fenced_by_mistake_claims_its_partition_again() {
    let redis = Redis::start();
    let site = Site::start(6, Some(server(&redis)));
    let (elsewhere, mut chance) = (site.elsewhere(), StdRng::seed_from_u64(8));
    (0..100).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 100, "events").await;
    let key = "{tidemark/g1/site/0}";
    redis.ask(&["HSET", key, "owner", "somebody else"]);
    (100..150).for_each(|n| site.append(&event(&mut chance, n)));
    check(&site, &elsewhere, 150, "a claim by somebody else").await;
    site.stop();
}
