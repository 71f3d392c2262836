//! The process's HTTP server: from listening to the last answer.

use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::serve::ListenerExt as _;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::{Access, Scope};
use tidemark_metrics::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// A server that answers.
pub struct Http {
    server: JoinHandle<std::io::Result<()>>,
    close: watch::Sender<bool>,
}

/// Listens, so that connections wait from here on; gives the URL too. Refuses to be open to other machines unless that
/// was said.
pub async fn listen(config: &Config, access: &Access) -> Result<(TcpListener, String)> {
    let at = &config.listen;
    let listener = TcpListener::bind(at).await;
    let listener = listener.with_context(|| format!("listening on {at}; is another tidemark running? --listen takes another address"))?;
    let address = listener.local_addr()?;
    if access.is_open() && !config.open && !address.ip().is_loopback() {
        bail!(
            "{at} can be reached from other machines, and there are no keys: everybody could send events, read counts and pause layers. \
             Add a [[key]] (`tidemark key` makes one), or say --open if something in front of it keeps strangers out"
        );
    }
    Ok((listener, format!("http://{address}")))
}

/// Times all routes, and adds `/metrics` for those that may read.
pub fn with_metrics(access: &Arc<Access>, mut registry: Registry, routes: Router) -> Router {
    let routes = tidemark_metrics::timed(&mut registry, routes);
    routes.merge(access.guard(Scope::Read, tidemark_metrics::routes(registry)))
}

impl Http {
    pub fn serve(listener: TcpListener, routes: Router) -> Self {
        let (close, mut closed) = watch::channel(false);
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        let server = axum::serve(listener, routes).with_graceful_shutdown(async move { drop(closed.wait_for(|closed| *closed).await) });
        Self { server: tokio::spawn(server.into_future()), close }
    }

    /// Waits for the end, which comes by itself only after an error.
    pub async fn ended(&mut self) -> Result<()> {
        (&mut self.server).await.context("the HTTP server")?.context("the HTTP server")
    }

    /// Takes nothing new, and waits for what is under way.
    pub async fn close(self) {
        let _ = self.close.send(true);
        if !self.server.is_finished() && tokio::time::timeout(DRAIN, self.server).await.is_err() {
            tracing::warn!("requests were still under way after {} s", DRAIN.as_secs());
        }
    }
}
