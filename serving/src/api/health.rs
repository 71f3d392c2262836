//! `GET /healthz` and `GET /readyz`

use super::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use tidemark_ingest::problem::Problem;

/// Alive, and no invariant has been seen broken.
pub async fn healthz() -> Result<&'static str, Problem> {
    match tidemark_core::invariant::broken() {
        0 => Ok("ok\n"),
        n => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "invariant-broken",
            "An invariant is broken",
            format!("{n} checks of invariants have failed since the start; the log says which. Keep the log and the data, and restart"),
        )),
    }
}

/// A query can be answered: every partition is ready, and history answers. Anybody may ask, so no server is asked for it, and it names
/// none.
pub async fn readyz(State(engine): State<Shared>) -> Result<&'static str, Problem> {
    let not_yet = |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", detail);
    let ready = engine.live.ready();
    // A node that has none of the layers answers from history alone while Redis has nothing for it.
    if ready < engine.partitions.get() as usize && engine.layers.speed.is_some() {
        return Err(not_yet(format!("{ready} of {} partitions are ready", engine.partitions.get())));
    }
    let known = engine.reached.borrow().iter().len();
    if known < engine.partitions.get() as usize {
        return Err(not_yet(format!("how far history is, is known of {known} of {} partitions", engine.partitions.get())));
    }
    if engine.history.is_heard() { Ok("ready\n") } else { Err(not_yet("history does not answer; /v1/status says more".into())) }
}
