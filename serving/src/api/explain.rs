//! `GET /v1/explain`: what one number of an answer is made of.

use super::query::{engine_for, problem, refused};
use crate::answering::Answering;
use crate::explain::{Aim, Explanation, aim};
use crate::measure::{Measure, Value as Figure};
use crate::plan::{absolute, pairs, pinned, written};
use axum::Json;
use axum::extract::{RawQuery, State};
use serde_json::{Map, Value, json};
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::window::rfc3339;
use tidemark_history::evidence::{Origin, Placed};
use tidemark_ingest::problem::Problem;
use tidemark_topic::now_ms;

pub async fn explain(State(answering): State<Answering>, RawQuery(query): RawQuery) -> Result<Json<Value>, Problem> {
    let query = query.unwrap_or_default();
    let engine = engine_for(&answering, &query)?;
    let query = absolute(&query, now_ms()).map_err(refused)?;
    let aim = aim(&engine.rules, &query).map_err(refused)?;
    let explanation = engine.explain(&aim).await.map_err(problem)?;
    Ok(Json(shown(&query, &engine.rules, &aim, &explanation)))
}

fn shown(query: &str, rules: &Rules, aim: &Aim, explanation: &Explanation) -> Value {
    let question = &aim.plan.question;
    let filters: Map<String, Value> = question.filters.iter().map(|(dimension, values)| (dimension.to_string(), json!(values))).collect();
    let late: u64 = explanation.origins.iter().map(|origin| origin.behind).sum();
    let uncounted = explanation.uncounted.iter();
    let uncounted: Vec<Value> =
        uncounted.map(|of| json!({"partition": of.partition.0, "reason": of.reason, "records": of.records})).collect();
    json!({
        "number": figures(&explanation.cell),
        "from": question.range.from_ms.map(rfc3339),
        "to": question.range.to_ms.map(rfc3339),
        "where": filters,
        "phase": explanation.phase.map(|phase| phase.name()),
        "cut": positions(explanation.cut()),
        "generation": rules.generation.0,
        "late": explanation.over.as_ref().map(|_| late),
        "epochs": explanation.origins.iter().map(|origin| epoch(explanation, origin)).collect::<Vec<_>>(),
        "uncounted": uncounted,
        "events": explanation.events.iter().map(|placed| event(explanation, placed)).collect::<Vec<_>>(),
        "next": next(query, rules, aim, explanation),
    })
}

fn figures(cell: &Cell) -> Map<String, Value> {
    let figure = |measure: Measure| match measure.of(cell) {
        Figure::Integer(n) => n.into(),
        Figure::Decimal(text) => text.into(),
        Figure::Null => Value::Null,
    };
    Measure::ALL.into_iter().map(|measure| (measure.name().to_owned(), figure(measure))).collect()
}

fn positions(cut: &Cut) -> Map<String, Value> {
    cut.iter().map(|(partition, next)| (partition.to_string(), next.get().into())).collect()
}

/// An epoch below its mark is answered for by history, any other by the speed layer.
fn epoch(explanation: &Explanation, origin: &Origin) -> Value {
    let is_closed = explanation.marks.get(&origin.partition).is_some_and(|mark| mark.is_closed(origin.epoch));
    let mut shown = figures(&origin.cell);
    shown.extend([
        ("partition".to_owned(), origin.partition.0.into()),
        ("epoch".to_owned(), origin.epoch.0.into()),
        ("layer".to_owned(), if is_closed { "history" } else { "speed" }.into()),
        ("first_offset".to_owned(), origin.first.get().into()),
        ("last_offset".to_owned(), origin.last.get().into()),
        ("late".to_owned(), explanation.over.as_ref().map(|_| origin.behind).into()),
    ]);
    shown.into()
}

fn event(explanation: &Explanation, placed: &Placed) -> Value {
    let (partition, offset, event) = placed;
    let properties: Map<String, Value> = event.properties.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "partition": partition.0,
        "offset": offset.get(),
        "event_id": event.event_id,
        "event_type": event.event_type,
        "timestamp": rfc3339(event.timestamp_ms),
        "product_id": event.product_id,
        "user_id": event.user_id,
        "order_amount": event.order_amount.map(|amount| amount.to_string()),
        "properties": properties,
        "late": explanation.is_late(placed),
    })
}

/// Where the next page is: at the same cut, so that its events are those of the same number.
fn next(query: &str, rules: &Rules, aim: &Aim, explanation: &Explanation) -> Option<String> {
    let (partition, offset, _) = explanation.events.last().filter(|_| explanation.events.len() == aim.limit as usize)?;
    let mut parameters = pairs(query);
    parameters.retain(|(name, _)| name != "next");
    Some(format!("/v1/explain?{}&next={partition}:{offset}", pinned(&written(&parameters), rules.generation, 0, explanation.cut())))
}
