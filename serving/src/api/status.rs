//! `GET /v1/status`: where every partition stands.

use crate::answering::Answering;
use crate::engine::Engine;
use crate::ledger::Account;
use crate::live::Live;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tidemark_core::cell::Tally;
use tidemark_core::offset::Partition;
use tidemark_core::view::Dimension;
use tidemark_core::window::rfc3339;
use tidemark_history::audit::Damaged;
use tidemark_history::generations::State as Standing;
use tidemark_speed_layer::run::PartitionStatus;
use tidemark_topic::{Control, now_ms};

/// All positions are next offsets: the first not included.
pub async fn status(State(answering): State<Answering>) -> Json<Value> {
    let engine = answering.live();
    let others: Vec<Value> = answering.others().iter().map(|(engine, state)| generation(engine, *state)).collect();
    let views: Vec<Value> = engine.rules.views.iter().map(|v| json!({"name": v.name(), "dimensions": names(v.dimensions())})).collect();
    let status = engine.live.status();
    let (accounts, repairing) =
        tokio::join!(engine.ledger.accounts(&*engine.history, &engine.rules, &status), engine.ledger.repairing(&*engine.history));
    let trouble = accounts.as_ref().err().or(repairing.as_ref().err());
    let repairing =
        repairing.as_ref().map(|epochs| epochs.iter().map(|(p, epoch)| json!({"partition": p.0, "epoch": epoch.0})).collect::<Vec<_>>());
    let damaged = engine.history.damage().await.ok().map(|damage| damage.damaged.iter().map(damaged_epoch).collect::<Vec<_>>());
    let mut shown = json!({
        "topic": engine.topic,
        "generation": engine.rules.generation.0,
        "rules": engine.rules.text(),
        "epoch_bits": engine.rules.epoch_bits.get(),
        "views": views,
        "dimensions": names(&Dimension::ALL),
        "partitions": partitions(&engine, &status, accounts.as_ref().ok()),
        "watermark": engine.watermark_ms(now_ms()).map(rfc3339),
        "lateness_ms": u64::try_from(engine.lateness.as_millis()).unwrap_or(u64::MAX),
        "other_generations": others,
        "live": {
            "from": match engine.live { Live::Here(_) => "memory", Live::InRedis(_) => "redis" },
            "trouble": engine.live.trouble(),
        },
        "ledger": {"repairing": repairing.ok(), "damaged": damaged, "revision": engine.history.revision(), "trouble": trouble},
        "layers": {},
        "broken_invariants": tidemark_core::invariant::broken(),
    });
    if let Some(speed) = &engine.layers.speed {
        shown["reconciliation"] = json!({"closed": speed.meters.closed.get(), "repaired": speed.meters.repaired.get()});
        shown["layers"]["speed"] = layer(&speed.control);
    }
    if let Some(batch) = &engine.layers.batch {
        shown["layers"]["batch"] = layer(&batch.control);
    }
    Json(shown)
}

/// A closed epoch that is not answered from.
fn damaged_epoch(of: &Damaged) -> Value {
    json!({"partition": of.partition.0, "epoch": of.epoch.0, "raw_is_sound": of.is_raw_sound(), "what": of.finding.what})
}

fn names(dimensions: &[Dimension]) -> Vec<&'static str> {
    dimensions.iter().map(|d| d.name()).collect()
}

/// One that does not answer.
fn generation(engine: &Engine, state: Standing) -> Value {
    let partitions = partitions(engine, &engine.live.status(), None);
    json!({"generation": engine.rules.generation.0, "rules": engine.rules.text(), "state": state.name(), "partitions": partitions})
}

fn partitions(
    engine: &Engine,
    status: &BTreeMap<Partition, PartitionStatus>,
    accounts: Option<&BTreeMap<Partition, Account>>,
) -> Vec<Value> {
    let (reached, now) = (engine.reached.borrow().clone(), now_ms());
    let partition = |p: Partition| {
        let Some(at) = status.get(&p) else { return json!({"partition": p.0, "ready": false}) };
        let history = reached.get(p);
        let account = accounts.and_then(|accounts| accounts.get(&p));
        json!({
            "partition": p.0,
            "ready": at.taught,
            "mark": at.waterline.mark.position(engine.rules.epoch_bits).get(),
            "history": history.get(),
            "speed": at.waterline.position.get(),
            "end": at.end.get(),
            "lag": at.lag(),
            "lag_ms": at.lag_ms(now),
            "history_lag": at.end.since(history),
            "closed_epochs": at.waterline.mark.oldest_open().0,
            "open_epochs": at.open_epochs,
            "cells": at.cells,
            "accounted": account.map(accounted),
        })
    };
    (0..engine.partitions.get()).map(|p| partition(Partition(p))).collect()
}

/// What became of the records from one position up to another: the four add up to what lies between.
fn accounted(account: &Account) -> Value {
    let Account { from, to, tally: Tally { events, duplicates, dead_letters, holes } } = account;
    json!({"from": from.get(), "to": to.get(), "events": events, "duplicates": duplicates, "dead_letters": dead_letters, "holes": holes})
}

fn layer(control: &Control) -> Value {
    let throttled_ms = u64::try_from(control.throttled().as_millis()).unwrap_or(u64::MAX);
    json!({"paused": control.is_paused(), "trouble": control.current_trouble(), "throttled_ms": throttled_ms})
}
