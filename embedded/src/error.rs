//! What can go wrong around the engines. Each text says what to do, for a person at a terminal reads it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of the embedded engines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `what` names the engine's part that was looked for.
    #[error("{what} is not in {}; run `make setup`, or set TIDEMARK_ENGINES to the directory that has it", looked_in(.looked))]
    EnginesMissing { what: &'static str, looked: Vec<PathBuf> },
    #[error("no `java` on the PATH, and Kafka needs one (17 or newer); run `make setup`, or set JAVA_HOME")]
    JavaMissing,
    #[error("the directory {} is in use by another tidemark{}; stop that one, or name another directory", .dir.display(), by(*.pid))]
    DirectoryLocked { dir: PathBuf, pid: Option<u32> },
    #[error("process {pid} ({name}) is still running on {}, left over from an earlier run; end it with `kill {pid}` and start again", .dir.display())]
    StaleChild { name: &'static str, pid: u32, dir: PathBuf },
    #[error("port {port} on 127.0.0.1, meant for {name}, is taken by another process; free it or choose another port")]
    PortTaken { name: &'static str, port: u16 },
    #[error("no free port on 127.0.0.1 was found; close some of the programs that listen there")]
    NoFreePort,
    #[error("{name} ended while starting ({status}); its log {} ends with:\n{tail}", .log.display())]
    EndedAtStart { name: &'static str, status: String, log: PathBuf, tail: String },
    #[error("{name} did not answer within {after:?}; look into {}, which ends with:\n{tail}", .log.display())]
    NotReady { name: &'static str, after: Duration, log: PathBuf, tail: String },
    #[error("could not start {name} as {}: {source}", .program.display())]
    Spawn { name: &'static str, program: PathBuf, source: io::Error },
    #[error("could not {action} {}: {source}; check the path, its rights and the free space", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the engine was started with wrong arguments: {0}; it is meant to be started by `tidemark up`, not by hand")]
    EngineArguments(String),
}

impl Error {
    /// For `map_err`: an [`Error::File`] about `path`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn looked_in(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", nor in ")
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
