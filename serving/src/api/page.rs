//! `GET /`: a first page, so that a newcomer sees numbers move.

use axum::response::Html;

pub async fn page() -> Html<&'static str> {
    Html(include_str!("../page/index.html"))
}
