//! `GET /openapi.json` and `GET /docs`

use crate::described;
use axum::Json;
use axum::response::Html;
use serde_json::Value;

pub async fn openapi() -> Json<&'static Value> {
    Json(described::document())
}

pub async fn reference() -> Html<&'static str> {
    Html(described::reference())
}
