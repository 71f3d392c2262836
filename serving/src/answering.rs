//! The engines of a process: one for each generation, of which one answers.

use crate::engine::Engine;
use axum::extract::FromRef;
use std::fmt;
use std::sync::Arc;
use tidemark_history::generations::State;

type Live<H> = dyn Fn() -> Arc<Engine<H>> + Send + Sync;
type Others<H> = dyn Fn() -> Vec<(Arc<Engine<H>>, State)> + Send + Sync;

/// Says which engine answers now, and which others there are. A request takes the engine once, and so goes on with the
/// generation that it began with.
pub struct Answering<H> {
    live: Arc<Live<H>>,
    others: Arc<Others<H>>,
}

impl<H> Answering<H> {
    pub fn new(
        live: impl Fn() -> Arc<Engine<H>> + Send + Sync + 'static,
        others: impl Fn() -> Vec<(Arc<Engine<H>>, State)> + Send + Sync + 'static,
    ) -> Self {
        Self { live: Arc::new(live), others: Arc::new(others) }
    }

    pub fn live(&self) -> Arc<Engine<H>> {
        (self.live)()
    }

    pub fn others(&self) -> Vec<(Arc<Engine<H>>, State)> {
        (self.others)()
    }
}

impl<H: Send + Sync + 'static> From<Arc<Engine<H>>> for Answering<H> {
    /// Always the same one.
    fn from(engine: Arc<Engine<H>>) -> Self {
        Self::new(move || Arc::clone(&engine), Vec::new)
    }
}

impl<H> Clone for Answering<H> {
    fn clone(&self) -> Self {
        Self { live: Arc::clone(&self.live), others: Arc::clone(&self.others) }
    }
}

impl<H> fmt::Debug for Answering<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

/// What a handler of one engine takes.
impl<H> FromRef<Answering<H>> for Arc<Engine<H>> {
    fn from_ref(answering: &Answering<H>) -> Self {
        answering.live()
    }
}
