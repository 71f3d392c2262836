//! Both engines together, as `tidemark up` wants them: start side by side, write down where they listen, stop in order.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerOptions};
use crate::child::{ChildState, Supervisor};
use crate::data_dir::{DataDir, Runtime, free_ports};
use crate::engine::{Engine, EngineArgs, EngineCommand, EngineLimits};
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
        }
    }
}

/// A running Kafka node and a running ClickHouse engine. Dropped without [`Embedded::stop`], both are killed.
#[derive(Debug)]
pub struct Embedded {
    kafka: Supervisor,
    engine: Supervisor,
    board: Arc<Board>,
    keeper: JoinHandle<()>,
}

impl Embedded {
    /// Starts both at the same time and waits until both answer. If one fails, the other is killed.
    ///
    /// # Errors
    /// Those of [`Broker::start`] and [`Engine::start`].
    pub async fn start(
        dir: DataDir,
        engines: &Engines,
        options: EmbeddedOptions,
    ) -> Result<Self, Error> {
        let [kafka_port, controller_port, clickhouse_port] = free_ports()?;
        let kafka_port = options.kafka_port.unwrap_or(kafka_port);
        let clickhouse_port = options.clickhouse_port.unwrap_or(clickhouse_port);
        let broker = BrokerOptions {
            dir: dir.kafka(),
            logs: dir.logs(),
            port: kafka_port,
            controller_port,
            heap_mib: options.kafka_heap_mib,
        };
        let args = EngineArgs {
            library: engines.libchdb.clone(),
            data: dir.clickhouse(),
            port: clickhouse_port,
            limits: options.limits,
        };
        let logs = dir.logs();
        let (kafka, engine) = tokio::try_join!(
            Broker::start(engines, &broker),
            Engine::start(options.engine, &args, &logs)
        )?;

        let runtime = Runtime {
            pid: std::process::id(),
            http: None,
            kafka: format!("127.0.0.1:{kafka_port}"),
            clickhouse: format!("http://127.0.0.1:{clickhouse_port}"),
            kafka_pid: pid(&kafka.state().borrow()),
            engine_pid: pid(&engine.state().borrow()),
        };
        let board = Arc::new(Board {
            dir,
            runtime: Mutex::new(runtime),
        });
        board.change(|_| {})?;
        let keeper = tokio::spawn(keep(Arc::clone(&board), kafka.state(), engine.state()));
        Ok(Self {
            kafka,
            engine,
            board,
            keeper,
        })
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

    /// Kafka's state.
    #[must_use]
    pub fn kafka(&self) -> watch::Receiver<ChildState> {
        self.kafka.state()
    }

    /// The engine's state.
    #[must_use]
    pub fn engine(&self) -> watch::Receiver<ChildState> {
        self.engine.state()
    }

    /// Stops both and lets the directory go. Call it after the last insert and the last produce.
    pub async fn stop(self) {
        self.keeper.abort();
        tokio::join!(self.kafka.stop(), self.engine.stop());
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
async fn keep(
    board: Arc<Board>,
    mut kafka: watch::Receiver<ChildState>,
    mut engine: watch::Receiver<ChildState>,
) {
    loop {
        let changed = tokio::select! {
            changed = kafka.changed() => changed,
            changed = engine.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let (kafka_pid, engine_pid) = (
            pid(&kafka.borrow_and_update()),
            pid(&engine.borrow_and_update()),
        );
        let written = board
            .change(|runtime| (runtime.kafka_pid, runtime.engine_pid) = (kafka_pid, engine_pid));
        if let Err(error) = written {
            tracing::warn!("{error}");
        }
    }
}

fn pid(state: &ChildState) -> Option<u32> {
    match state {
        ChildState::Ready { pid } => Some(*pid),
        _ => None,
    }
}
