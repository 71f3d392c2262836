//! The process's HTTP server: from listening to the last answer.

use crate::config::Config;
use crate::crew::{Crew, Part};
use crate::exit::Exit;
use crate::tls::TlsListener;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use futures_util::FutureExt as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::{Access, Scope};
use tidemark_ingest::Problem;
use tidemark_metrics::{Answering, Process, Registry};
use tidemark_serving::engine::Engine;
use tidemark_topic::Control;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// A server that answers, at one address or two.
pub struct Http {
    servers: JoinSet<()>,
    close: watch::Sender<bool>,
    front: Front,
}

/// The runtime that serves connections. All that it does is short; what takes longer is done by the process's own. So a request is
/// seen at once, and health is answered, however busy the process is.
struct Front(Option<Runtime>);

impl Front {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name("http").event_interval(EVENT_INTERVAL).enable_all().build();
        Ok(Self(Some(runtime.context("starting the HTTP server's runtime")?)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("there until dropped")
    }
}

impl Drop for Front {
    /// A runtime does not end within another one by waiting.
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// A busy thread of a runtime looks for what has come over the network after so many tasks, by default after 61. With many
/// connections that would be late.
const EVENT_INTERVAL: u32 = 7;

/// Where connections come in.
pub struct Door {
    front: Front,
    requests: Listening,
    /// Those of operators and of Prometheus, where they come in by themselves.
    apart: Option<Listening>,
    /// At each of the two.
    max_connections: usize,
}

enum Listening {
    Plain(TcpListener),
    Tls(TlsListener),
}

/// Listens, so that connections wait from here on; gives the URL for requests too. Refuses to be open to other machines
/// unless that was said.
pub async fn listen(config: &Config, access: &Access) -> Result<(Door, String)> {
    allow_descriptors();
    let front = Front::start()?;
    let (requests, url) = listen_at(&config.listen, config, access, &front).await?;
    let apart = match config.admin_listen.as_str() {
        "" => None,
        at => Some(listen_at(at, config, access, &front).await?.0),
    };
    Ok((Door { front, requests, apart, max_connections: config.max_connections }, url))
}

/// Takes as many file descriptors as the system allows this process: by default it may have 1,024, and each connection is one.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("the limit of file descriptors stays as it is: {error}");
    }
}

async fn listen_at(at: &str, config: &Config, access: &Access, front: &Front) -> Result<(Listening, String)> {
    let tls = config.tls.server()?;
    let listener = TcpListener::bind(at).await;
    let listener = listener.with_context(|| format!("listening on {at}; is another tidemark running? --listen takes another address"))?;
    let address = listener.local_addr()?;
    refuse_strangers(at, address, config, access)?;
    let listener = listener.into_std()?;
    let _within = front.runtime().enter();
    let listener = TcpListener::from_std(listener)?;
    Ok(match tls {
        None => (Listening::Plain(listener), format!("http://{address}")),
        Some(tls) => (Listening::Tls(TlsListener::new(listener, tls)?), format!("https://{address}")),
    })
}

/// Without keys, only this machine is let in, unless that was said.
pub fn refuse_strangers(at: &str, address: SocketAddr, config: &Config, access: &Access) -> Result<()> {
    if access.is_open() && !config.open && !address.ip().is_loopback() {
        return Err(Exit::Refused.because(format!(
            "{at} can be reached from other machines, and there are no keys: everybody could send events, read counts and pause layers. \
             Add a [[key]] (`tidemark key` makes one), or say --open if something in front of it keeps strangers out"
        )));
    }
    Ok(())
}

/// What a layer of its own shows: whether it is well, its figures, and the way to steer it. Ends with the layer.
pub async fn serve_layer<P: Part>(
    door: Door,
    access: &Arc<Access>,
    layer: &'static str,
    control: fn(&P) -> &Control,
    mut crew: Crew<P>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let ready = {
        let shown = crew.shown();
        async move || match control(&shown.borrow().live).current_trouble() {
            None => Ok("ready\n"),
            Some(trouble) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", trouble)),
        }
    };
    let steer = {
        let shown = crew.shown();
        async move |Path(action): Path<String>| tidemark_serving::api::steer(layer, control(&shown.borrow().live), &action)
    };
    let absent = async move || {
        let there = format!(
            "this process is a {layer} layer: there are /v1/layers/{layer}/{{pause|resume}} (POST), /metrics, /healthz and /readyz; queries are answered elsewhere"
        );
        Problem::new(StatusCode::NOT_FOUND, "not-found", "No such resource", there)
    };
    let open = Router::new().route("/healthz", get(tidemark_serving::api::healthz)).route("/readyz", get(ready));
    let admin = Router::new().route(&format!("/v1/layers/{layer}/{{action}}"), post(steer));
    let mut server = Http::serve(door, access, Registry::default(), answering(&crew), open.fallback(absent), admin);
    let outcome = tokio::select! {
        () = stop => Ok(()),
        error = crew.follow() => Err(error),
        ended = server.ended() => ended,
    };
    tracing::info!("stopping");
    crew.stop().await;
    server.close().await;
    outcome
}

/// What the part tells that answers now.
pub fn answering<P: Part>(crew: &Crew<P>) -> Answering {
    let shown = crew.shown();
    Arc::new(move || Arc::clone(&shown.borrow().registry))
}

/// Which engine answers, and which others there are.
pub fn engines<P: Part>(crew: &Crew<P>, engine: fn(&P) -> &Arc<Engine>) -> tidemark_serving::answering::Answering {
    let (shown, others) = (crew.shown(), crew.shown());
    tidemark_serving::answering::Answering::new(
        move || Arc::clone(engine(&shown.borrow().live)),
        move || others.borrow().others.iter().map(|(part, state)| (Arc::clone(engine(part)), *state)).collect(),
    )
}

impl Http {
    /// Serves `routes`, timed, and beside them or apart what is for operators, with `/metrics` for those that may read:
    /// what is in `registry`, and what the part that answers tells.
    pub fn serve(door: Door, access: &Arc<Access>, mut registry: Registry, answering: Answering, routes: Router, admin: Router) -> Self {
        let mut server = Self { servers: JoinSet::new(), close: watch::Sender::new(false), front: door.front };
        registry.register_collector(Box::new(Process));
        let (admin, max) = (access.guard(Scope::Admin, admin), door.max_connections);
        match door.apart {
            None => {
                let routes = tidemark_traces::requests(tidemark_metrics::timed(&mut registry, routes.merge(admin)));
                server.listen(door.requests, max, routes.merge(access.guard(Scope::Read, tidemark_metrics::routes(registry, answering))));
            }
            Some(apart) => {
                server.listen(door.requests, max, tidemark_traces::requests(tidemark_metrics::timed(&mut registry, routes)));
                server.listen(apart, max, admin.merge(access.guard(Scope::Read, tidemark_metrics::routes(registry, answering))));
            }
        }
        server
    }

    fn listen(&mut self, at: Listening, max_connections: usize, routes: Router) {
        let mut closed = self.close.subscribe();
        let front = self.front.runtime().handle();
        let closing = async move { drop(closed.wait_for(|closed| *closed).await) }.boxed().shared();
        match at {
            Listening::Plain(listener) => {
                let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
                self.servers.spawn_on(tidemark_https::serve(listener, routes, max_connections, closing), front)
            }
            Listening::Tls(listener) => self.servers.spawn_on(tidemark_https::serve(listener, routes, max_connections, closing), front),
        };
    }

    /// Waits for the end, which comes by itself only after a panic.
    pub async fn ended(&mut self) -> Result<()> {
        self.servers.join_next().await.context("there is no HTTP server")?.context("the HTTP server")
    }

    /// Serves until it is time to stop, and then ends well.
    pub async fn serve_until(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        tokio::select! {
            () = stop => {}
            ended = self.ended() => return ended,
        }
        tracing::info!("stopping");
        self.close().await;
        Ok(())
    }

    /// Takes nothing new, and waits for what is under way.
    pub async fn close(mut self) {
        let _ = self.close.send(true);
        let closed = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, closed).await.is_err() {
            tracing::warn!("requests were still under way after {} s", DRAIN.as_secs());
        }
    }
}
