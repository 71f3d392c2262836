//! `GET /v1/status`: where every partition stands.

use crate::answering::Answering;
use crate::engine::Engine;
use crate::live::Live;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tidemark_core::offset::Partition;
use tidemark_core::window::rfc3339;
use tidemark_history::History;
use tidemark_history::generations::State as Standing;
use tidemark_topic::{Control, now_ms};

/// All positions are next offsets: the first not included.
pub async fn status<H: History>(State(answering): State<Answering<H>>) -> Json<Value> {
    let engine = answering.live();
    let others: Vec<Value> = answering.others().iter().map(|(engine, state)| generation(engine, *state)).collect();
    let views: Vec<Value> = engine
        .rules
        .views
        .iter()
        .map(|v| json!({"name": v.name(), "dimensions": v.dimensions().iter().map(|d| d.name()).collect::<Vec<_>>()}))
        .collect();
    let mut shown = json!({
        "topic": engine.topic,
        "generation": engine.rules.generation.0,
        "rules": engine.rules.text(),
        "epoch_bits": engine.rules.epoch_bits.get(),
        "views": views,
        "partitions": partitions(&engine),
        "watermark": engine.watermark_ms(now_ms()).map(rfc3339),
        "other_generations": others,
        "live": {
            "from": match engine.live { Live::Here(_) => "memory", Live::InRedis(_) => "redis" },
            "trouble": engine.live.trouble(),
        },
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

/// One that does not answer.
fn generation<H>(engine: &Engine<H>, state: Standing) -> Value {
    json!({"generation": engine.rules.generation.0, "rules": engine.rules.text(), "state": state.name(), "partitions": partitions(engine)})
}

fn partitions<H>(engine: &Engine<H>) -> Vec<Value> {
    let reached = engine.reached.borrow().clone();
    let status = engine.live.status();
    let partition = |p: Partition| {
        let Some(at) = status.get(&p) else { return json!({"partition": p.0, "ready": false}) };
        let history = reached.get(p);
        json!({
            "partition": p.0,
            "ready": at.taught,
            "mark": at.waterline.mark.position(engine.rules.epoch_bits).get(),
            "history": history.get(),
            "speed": at.waterline.position.get(),
            "end": at.end.get(),
            "lag": at.end.since(at.waterline.position),
            "history_lag": at.end.since(history),
            "closed_epochs": at.waterline.mark.oldest_open().0,
            "open_epochs": at.open_epochs,
            "cells": at.cells,
        })
    };
    (0..engine.partitions).map(|p| partition(Partition(p))).collect()
}

fn layer(control: &Control) -> Value {
    json!({"paused": control.is_paused(), "trouble": control.current_trouble()})
}
