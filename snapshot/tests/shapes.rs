//! The same on a cluster, and by sentinels through a failover.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidemark_core::cell::Cell;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Generation;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::view::{ViewId, Views};
use tidemark_core::window::{TimeRange, WindowStart};
use tidemark_snapshot::{Error, Head, Kind, OpenEpoch, Server, Store, WindowCells, Write, Written};
use tidemark_tests::server::free_port;
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);
const V: ViewId = ViewId(0);

/// A child that ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn node(dir: &Path, port: u16, more: &[&str]) -> Node {
    let own = dir.join(port.to_string());
    std::fs::create_dir_all(&own).expect("a directory");
    let mut command = Command::new("redis-server");
    command.args(more).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]);
    Node(command.current_dir(own).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("redis-server starts"))
}

fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().expect("redis-cli is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn store(server: &Server) -> Store {
    let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
    Store::new(server, "tidemark", "events", Generation(1), views).expect("valid")
}

/// A write of so many events.
fn write(owner: &str, number: u64, count: u64) -> Write {
    let mut cells = WindowCells::new(Epoch(0), V, WindowStart::containing(0));
    cells.push(["a"].into_iter(), &Cell::without_amounts(count, 0));
    let position = NextOffset::new(count);
    let epochs = vec![OpenEpoch::default()];
    let head = Head { position, mark: Mark::START, end: position, counted_ms: None, event_ms: None, cells: 1, epochs };
    Write { owner: owner.into(), name: "n".into(), number, cells: vec![cells], head: Some(head), sweep: true }
}

async fn count(store: &Store, partition: Partition) -> Result<Option<u64>, Error> {
    let mut count = 0;
    let head = store.read(partition, V, TimeRange::default(), &mut |_, _, cell| count += cell.count).await?;
    Ok(head.map(|_| count))
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_spread_over_a_cluster() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    // The bus has a port of its own, ten thousand above.
    let _nodes: Vec<Node> = ports.iter().map(|port| node(dir.path(), *port, &["--cluster-enabled", "yes"])).collect();
    ports.iter().for_each(|port| wait::until("a node answers", DEADLINE, || cli(*port, &["PING"]).contains("PONG").then_some(())));
    let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.push("--cluster-yes");
    let said = cli(ports[0], &create);
    let whole = || ports.iter().all(|port| cli(*port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")).then_some(());
    wait::until(&format!("the cluster is whole: {said}"), DEADLINE, whole);

    let server = Server { urls: vec![format!("redis://{}", addresses[0])], kind: Kind::Cluster, ..Server::default() };
    let store = store(&server);
    store.check().await.expect("it is there");
    for partition in (0..12).map(Partition) {
        let claim = store.claim(partition).await.expect("claimed");
        let written = store.write(partition, &write(&claim.owner, 1, u64::from(partition.0) + 1)).await.expect("asked");
        assert_eq!(written, Written::Done);
    }
    let heads = store.heads(13).await.expect("asked");
    let positions: Vec<Option<u64>> = heads.iter().map(|head| head.as_ref().map(|head| head.position.get())).collect();
    assert_eq!(positions, (1..=12).map(Some).chain([None]).collect::<Vec<_>>());
    for partition in (0..12).map(Partition) {
        assert_eq!(count(&store, partition).await.expect("read"), Some(u64::from(partition.0) + 1));
        let found = store.claim(partition).await.expect("claimed").found.expect("there is a snapshot");
        let mut loaded = 0;
        store.load(partition, &found, |_, _, _, _, cell| loaded += cell.count).await.expect("loaded");
        assert_eq!(loaded, u64::from(partition.0) + 1);
    }
    let used = ports.iter().filter(|port| cli(**port, &["DBSIZE"]).trim() != "0").count();
    assert!(used > 1, "all partitions are on one node");
}

/// The server is killed with writes that its replica has not seen: that they are missing is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_writes_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second, sentinel) = (free_port(), free_port(), free_port());
    let mut master = node(dir.path(), first, &[]);
    let _replica = node(dir.path(), second, &["--replicaof", "127.0.0.1", &first.to_string()]);
    wait::until("the replica follows", DEADLINE, || cli(second, &["INFO", "replication"]).contains("master_link_status:up").then_some(()));
    let config = dir.path().join("sentinel.conf");
    let text = format!(
        "port {sentinel}\nbind 127.0.0.1\nsentinel monitor counts 127.0.0.1 {first} 1\nsentinel down-after-milliseconds counts 500\n\
         sentinel failover-timeout counts 3000\n"
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new("redis-server");
    command.arg(&config).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
    let _sentinel = Node(command.spawn().expect("redis-server starts"));
    wait::until("the sentinel knows the replica", DEADLINE, || {
        cli(sentinel, &["SENTINEL", "REPLICAS", "counts"]).contains("slave").then_some(())
    });

    let kind = Kind::Sentinel { service: "counts".into() };
    let store = store(&Server { urls: vec![format!("redis://127.0.0.1:{sentinel}")], kind, ..Server::default() });
    let claim = store.claim(Partition(0)).await.expect("claimed");
    assert_eq!(store.write(Partition(0), &write(&claim.owner, 1, 1)).await.expect("asked"), Written::Done);
    wait::until("the replica has it", DEADLINE, || (cli(second, &["DBSIZE"]).trim() != "0").then_some(()));
    // It hears nothing of the second write: it says a password where none is known, and is not let in again.
    cli(second, &["CONFIG", "SET", "masterauth", "wrong"]);
    cli(second, &["CLIENT", "KILL", "TYPE", "master"]);
    wait::until("the replica is cut off", DEADLINE, || {
        cli(second, &["INFO", "replication"]).contains("master_link_status:down").then_some(())
    });
    assert_eq!(store.write(Partition(0), &write(&claim.owner, 2, 2)).await.expect("asked"), Written::Done);
    master.0.kill().expect("killed");
    master.0.wait().expect("killed");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let third = loop {
        match store.write(Partition(0), &write(&claim.owner, 3, 3)).await {
            Ok(written) => break written,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "no failover: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(third, Written::Lost);
    assert_eq!(count(&store, Partition(0)).await.expect("read"), Some(1), "older, and whole");
    let again = Write { name: "again".into(), ..write(&claim.owner, 1, 3) };
    assert_eq!(store.write(Partition(0), &again).await.expect("asked"), Written::Done);
    assert_eq!(count(&store, Partition(0)).await.expect("read"), Some(3));
}
