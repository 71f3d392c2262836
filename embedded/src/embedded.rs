//! Both engines together, as `tidemark up` wants them: start side by side, write down where they listen, stop in order.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerOptions};
use crate::child::{ChildState, Supervisor};
use crate::data_dir::{DataDir, Runtime, free_ports};
use crate::engine::{Engine, EngineArgs, EngineCommand, EngineLimits, USER, renew_secret};
use crate::error::Error;
use crate::locate::Engines;

/// How to run the two.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The program that is the engine.
    pub engine: EngineCommand,
    /// What the engine may use.
    pub limits: EngineLimits,
    /// Kafka's largest heap.
    pub kafka_heap_mib: u32,
    /// Kafka's port for clients; chosen if absent. Give one when producers connect directly.
    pub kafka_port: Option<u16>,
    /// The engine's port; chosen if absent.
    pub clickhouse_port: Option<u16>,
    /// A Kafka that runs elsewhere, `host:port`: none is started then.
    pub other_kafka: Option<String>,
    /// A ClickHouse that runs elsewhere, its URL: no engine is started then.
    pub other_clickhouse: Option<String>,
}

impl EmbeddedOptions {
    /// Defaults, with the program that is the engine.
    #[must_use]
    pub fn new(engine: EngineCommand) -> Self {
        Self {
            engine,
            limits: EngineLimits::default(),
            kafka_heap_mib: BrokerOptions::DEFAULT_HEAP_MIB,
            kafka_port: None,
            clickhouse_port: None,
            other_kafka: None,
            other_clickhouse: None,
        }
    }
}

/// A running Kafka node and a running ClickHouse engine, or one of them beside a server that runs elsewhere. Dropped
/// without [`Embedded::stop`], they are killed.
#[derive(Debug)]
pub struct Embedded {
    kafka: Option<Supervisor>,
    engine: Option<Supervisor>,
    board: Arc<Board>,
    keeper: JoinHandle<()>,
}

impl Embedded {
    /// Finds the engines and starts both at the same time and waits until both answer. If one fails, the other is killed.
    ///
    /// # Errors
    /// Those of [`Broker::start`] and [`Engine::start`].
    pub async fn start(dir: DataDir, options: EmbeddedOptions) -> Result<Self, Error> {
        let [kafka_port, controller_port, clickhouse_port] = free_ports()?;
        let kafka_port = options.kafka_port.unwrap_or(kafka_port);
        let clickhouse_port = options.clickhouse_port.unwrap_or(clickhouse_port);
        // Needed only by what is started here.
        let own_kafka = options.other_kafka.is_none();
        let own_engine = options.other_clickhouse.is_none();
        let engines = (own_kafka || own_engine).then(Engines::locate).transpose()?;
        let library = engines.as_ref().map(|e| e.libchdb.clone()).unwrap_or_default();
        let broker =
            BrokerOptions { dir: dir.kafka(), logs: dir.logs(), port: kafka_port, controller_port, heap_mib: options.kafka_heap_mib };
        let secret = if own_engine {
            renew_secret(&dir.clickhouse()).map_err(Error::file("write a secret into", &dir.clickhouse()))?
        } else {
            String::new()
        };
        let args = EngineArgs { library, data: dir.clickhouse(), port: clickhouse_port, limits: options.limits };
        let logs = dir.logs();
        let start_kafka = async {
            match &engines {
                Some(engines) if own_kafka => Broker::start(engines, &broker).await.map(Some),
                _ => Ok(None),
            }
        };
        let start_engine = async { if own_engine { Engine::start(options.engine, &args, &logs).await.map(Some) } else { Ok(None) } };
        let (kafka, engine) = tokio::try_join!(start_kafka, start_engine)?;

        let own_kafka = format!("127.0.0.1:{kafka_port}");
        let own_clickhouse = format!("http://{USER}:{secret}@127.0.0.1:{clickhouse_port}");
        let runtime = Runtime {
            pid: std::process::id(),
            http: None,
            kafka: options.other_kafka.clone().unwrap_or(own_kafka),
            clickhouse: options.other_clickhouse.clone().unwrap_or(own_clickhouse),
            kafka_pid: kafka.as_ref().and_then(|s| pid(&s.state().borrow())),
            engine_pid: engine.as_ref().and_then(|s| pid(&s.state().borrow())),
        };
        let board = Arc::new(Board { dir, runtime: Mutex::new(runtime) });
        board.change(|_| {})?;
        let states = [kafka.as_ref(), engine.as_ref()].map(|child| child.map(Supervisor::state));
        let keeper = tokio::spawn(keep(Arc::clone(&board), states));
        Ok(Self { kafka, engine, board, keeper })
    }

    /// Where things listen, as written to `DIR/tidemark.json`.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.board.lock().clone()
    }

    /// Adds Tidemark's own address to the file, once it listens.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn set_http(&self, address: impl Into<String>) -> Result<(), Error> {
        let address = address.into();
        self.board.change(|runtime| runtime.http = Some(address))
    }

    /// Stops both and lets the directory go. Call it after the last insert and the last produce.
    pub async fn stop(self) {
        self.keeper.abort();
        for child in [self.kafka, self.engine].into_iter().flatten() {
            child.stop().await;
        }
        self.board.dir.remove_runtime();
    }
}

/// The runtime file and what is in it.
#[derive(Debug)]
struct Board {
    dir: DataDir,
    /// Guards the file's content; held while the file is written, so that the last change is the last to be written.
    runtime: Mutex<Runtime>,
}

impl Board {
    fn lock(&self) -> std::sync::MutexGuard<'_, Runtime> {
        // A plain value: a panic elsewhere cannot have left it half changed.
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Runtime)) -> Result<(), Error> {
        let mut runtime = self.lock();
        change(&mut runtime);
        self.dir.write_runtime(&runtime)
    }
}

/// Writes the file anew whenever a child comes or goes.
async fn keep(board: Arc<Board>, [mut kafka, mut engine]: [Option<watch::Receiver<ChildState>>; 2]) {
    loop {
        let changed = tokio::select! {
            changed = next(&mut kafka) => changed,
            changed = next(&mut engine) => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = |state: &mut Option<watch::Receiver<ChildState>>| state.as_mut().and_then(|state| pid(&state.borrow_and_update()));
        let (kafka_pid, engine_pid) = (now(&mut kafka), now(&mut engine));
        let written = board.change(|runtime| (runtime.kafka_pid, runtime.engine_pid) = (kafka_pid, engine_pid));
        if let Err(error) = written {
            tracing::warn!("{error}");
        }
    }
}

/// The next change of a child; never, if there is none.
async fn next(state: &mut Option<watch::Receiver<ChildState>>) -> Result<(), watch::error::RecvError> {
    match state {
        Some(state) => state.changed().await,
        None => std::future::pending().await,
    }
}

fn pid(state: &ChildState) -> Option<u32> {
    match state {
        ChildState::Ready { pid } => Some(*pid),
        _ => None,
    }
}
