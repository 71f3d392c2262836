//! `POST /v1/layers/{speed|batch}/{pause|resume}`: for operators, while an engine is being looked after.

use super::{Shared, bad_request};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use tidemark_ingest::problem::Problem;
use tidemark_topic::Control;

pub async fn control(State(engine): State<Shared>, Path((layer, action)): Path<(String, String)>) -> Result<Json<Value>, Problem> {
    let control = match layer.as_str() {
        "speed" => engine.layers.speed.as_ref().map(|speed| &speed.control),
        "batch" => engine.layers.batch.as_ref().map(|batch| &batch.control),
        _ => return Err(bad_request("the layer must be `speed` or `batch`")),
    };
    let Some(control) = control else {
        return Err(bad_request(format!("the {layer} layer does not run in this process; ask one of its own")));
    };
    steer(&layer, control, &action)
}

/// Does to a layer what an operator wants, wherever it runs.
pub fn steer(layer: &str, control: &Control, action: &str) -> Result<Json<Value>, Problem> {
    match action {
        "pause" => control.pause(true),
        "resume" => control.pause(false),
        _ => return Err(bad_request("the action must be `pause` or `resume`")),
    }
    Ok(Json(json!({"layer": layer, "paused": control.is_paused()})))
}
