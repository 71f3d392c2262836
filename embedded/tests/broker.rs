//! The real Kafka node as a child process; asked by hand, for this crate brings no client.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod support;

use std::path::Path;
use std::time::Instant;

use support::{DEADLINE, engines, kill, pid_when_ready, rss_mib};
use tidemark_embedded::{Broker, BrokerOptions, Supervisor, free_ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn options(dir: &Path) -> BrokerOptions {
    let [port, controller_port] = free_ports().unwrap();
    BrokerOptions { dir: dir.to_owned(), logs: dir.to_owned(), port, controller_port, heap_mib: BrokerOptions::DEFAULT_HEAP_MIB }
}

async fn start(options: &BrokerOptions) -> Supervisor {
    Broker::start(&engines(), options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Sends one request of an old, fixed-layout version and gives the answer behind its correlation id.
async fn ask(port: u16, key: u16, version: u16, body: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut request = [key.to_be_bytes(), version.to_be_bytes()].concat();
        request.extend([0, 0, 0, 9, 0xff, 0xff]);
        request.extend(body);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_u32(u32::try_from(request.len()).unwrap()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        answer.split_off(4)
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap()
}

/// CreateTopics 2: one topic `t` of three partitions, one copy; its error code.
async fn create_topic(port: u16) -> u16 {
    let mut body = vec![0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 3, 0, 1];
    body.extend([0; 8]); // no assignments, no settings
    body.extend(30_000_u32.to_be_bytes());
    body.push(0); // not only to validate
    let answer = ask(port, 19, 2, &body).await;
    // throttle, one topic, its name
    u16::from_be_bytes([answer[11], answer[12]])
}

const TOPIC_ALREADY_EXISTS: u16 = 36;

#[tokio::test]
async fn the_node_starts_and_keeps_its_data_over_a_stop_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path());
    let time = Instant::now();
    let broker = start(&options).await;
    let pid = pid_when_ready(&broker, 0).await;
    println!("first start, with formatting: {:?}, {} MiB", time.elapsed(), rss_mib(pid));
    assert_eq!(create_topic(options.port).await, 0);
    assert_eq!(create_topic(options.port).await, TOPIC_ALREADY_EXISTS);
    let time = Instant::now();
    broker.stop().await;
    println!("stop: {:?}", time.elapsed());

    let time = Instant::now();
    let broker = start(&options).await;
    println!("second start: {:?}", time.elapsed());
    assert_eq!(create_topic(options.port).await, TOPIC_ALREADY_EXISTS);

    let pid = pid_when_ready(&broker, 0).await;
    let time = Instant::now();
    kill(pid);
    let pid = pid_when_ready(&broker, pid).await;
    println!("back after a kill: {:?}, {} MiB", time.elapsed(), rss_mib(pid));
    assert_eq!(create_topic(options.port).await, TOPIC_ALREADY_EXISTS);
    broker.stop().await;
    assert!(std::fs::metadata(dir.path().join("kafka.log")).unwrap().len() > 0);
}
