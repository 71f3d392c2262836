//! Both engines in one data directory: who owns it, what others can read about it, and that nothing outlives the owner.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use support::{engine_command, eventually, is_alive, kill};
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, Error, Runtime};

/// Makes this test program the owner instead of a test; names the data directory.
const OWNER: &str = "TIDEMARK_TEST_OWNER";

async fn start(dir: DataDir) -> Embedded {
    let options = EmbeddedOptions::new(engine_command());
    Embedded::start(dir, options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Not a test: the process that the next one kills. Does nothing unless it was started for that.
#[test]
fn owner() {
    let Some(dir) = std::env::var_os(OWNER).map(PathBuf::from) else {
        return;
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let _embedded = start(DataDir::open(dir).unwrap()).await;
        println!("owner is up");
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn children_of_a_killed_owner_are_gone_and_the_next_owner_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner", "--nocapture"])
        .env(OWNER, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("owner is up")), "the owner came up");

    let runtime = Runtime::read(dir.path()).unwrap();
    assert_eq!(runtime.pid, owner.id());
    let (kafka, engine) = (runtime.kafka_pid.unwrap(), runtime.engine_pid.unwrap());
    assert!(is_alive(kafka) && is_alive(engine));
    let refused = DataDir::open(dir.path()).unwrap_err();
    assert!(matches!(refused, Error::DirectoryLocked { pid, .. } if pid == Some(owner.id())), "{refused}");

    kill(owner.id());
    owner.wait().unwrap();
    eventually("both children are gone", || async { !is_alive(kafka) && !is_alive(engine) }).await;

    let embedded = start(DataDir::open(dir.path()).unwrap()).await;
    embedded.set_http("http://127.0.0.1:8080").unwrap();
    let runtime = Runtime::read(dir.path()).unwrap();
    assert_eq!((runtime.pid, runtime.http.as_deref()), (std::process::id(), Some("http://127.0.0.1:8080")));
    assert_eq!(runtime, embedded.runtime());

    // A child that comes back is in the file under its new pid, at its old address.
    let old = runtime.engine_pid.unwrap();
    kill(old);
    eventually("the file names the new engine", || async { Runtime::read(dir.path()).unwrap().engine_pid.is_some_and(|pid| pid != old) })
        .await;
    assert_eq!(Runtime::read(dir.path()).unwrap().clickhouse, runtime.clickhouse);

    embedded.stop().await;
    assert_eq!(Runtime::read(dir.path()), None);
    DataDir::open(dir.path()).unwrap();
}
