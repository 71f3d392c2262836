//! The engines of a process: one for each generation, of which one answers.

use crate::engine::Engine;
use axum::extract::FromRef;
use std::fmt;
use std::sync::Arc;
use tidemark_history::generations::State;

type Live = dyn Fn() -> Arc<Engine> + Send + Sync;
type Others = dyn Fn() -> Vec<(Arc<Engine>, State)> + Send + Sync;

/// Says which engine answers now, and which others there are. A request takes the engine once, and so goes on with the
/// generation that it began with.
#[derive(Clone)]
pub struct Answering {
    live: Arc<Live>,
    others: Arc<Others>,
}

impl Answering {
    pub fn new(
        live: impl Fn() -> Arc<Engine> + Send + Sync + 'static,
        others: impl Fn() -> Vec<(Arc<Engine>, State)> + Send + Sync + 'static,
    ) -> Self {
        Self { live: Arc::new(live), others: Arc::new(others) }
    }

    pub fn live(&self) -> Arc<Engine> {
        (self.live)()
    }

    pub fn others(&self) -> Vec<(Arc<Engine>, State)> {
        (self.others)()
    }
}

impl From<Arc<Engine>> for Answering {
    /// Always the same one.
    fn from(engine: Arc<Engine>) -> Self {
        Self::new(move || Arc::clone(&engine), Vec::new)
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

/// What a handler of one engine takes.
impl FromRef<Answering> for Arc<Engine> {
    fn from_ref(answering: &Answering) -> Self {
        answering.live()
    }
}
