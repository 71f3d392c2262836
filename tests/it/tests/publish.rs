//! `tidemark replay publish`: each record once, whatever is killed, and at the pace that was asked for.

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tidemark_tests::server::{Server, Site, binary};
use tidemark_tests::wait;

const PARTITIONS: i32 = 3;
const RECORDS: usize = 60_000;
const BEGAN_MS: i64 = 1_700_000_000_000;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What must be the same in both topics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Copied {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    header: Option<String>,
    pub(crate) timestamp_ms: i64,
}

pub(crate) fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["replay", "publish", "--topic", "source"]).arg("--data").arg(site.data()).args(arguments);
    command
}

pub(crate) fn publish(site: &Site, arguments: &[&str]) -> Output {
    command(site, arguments).output().expect("tidemark starts")
}

pub(crate) fn begin(site: &Site, arguments: &[&str]) -> Child {
    command(site, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tidemark starts")
}

pub(crate) fn make(server: &Server, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", server.runtime().kafka).create().expect("an admin client");
    let mut new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let made = runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).expect("Kafka answers");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Writes records that are so many milliseconds apart, by their timestamps.
fn fill(server: &Server, count: usize, apart_ms: i64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", server.runtime().kafka)
        .set("queue.buffering.max.messages", "200000")
        .create()
        .expect("a producer");
    for n in 0..count {
        let (key, payload) = (format!("key {}", n % 17), format!("record {n}"));
        let number = i64::try_from(n).expect("an i64");
        let headers = OwnedHeaders::new().insert(Header { key: "number", value: Some(&number.to_string()) });
        let partition = i32::try_from(n % 3).expect("an i32");
        let mut record = BaseRecord::to("source").payload(&payload).partition(partition).timestamp(BEGAN_MS + number * apart_ms);
        // Every fifth has neither key nor headers.
        if n % 5 > 0 {
            record = record.key(&key).headers(headers);
        }
        producer.send(record).expect("there is room");
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE).expect("all is written");
}

/// All committed records, by partition.
pub(crate) fn read(server: &Server, topic: &str) -> BTreeMap<i32, Vec<Copied>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", server.runtime().kafka)
        .set("group.id", "reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a place in the list");
    }
    consumer.assign(&list).expect("assigned");
    let (mut all, mut ended, began): (BTreeMap<i32, Vec<Copied>>, usize, _) = (BTreeMap::new(), 0, Instant::now());
    while ended < list.count() {
        assert!(began.elapsed() < PATIENCE, "`{topic}` cannot be read to its end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(record)) => all.entry(record.partition()).or_default().push(Copied {
                key: record.key().map(<[u8]>::to_vec),
                payload: record.payload().map(<[u8]>::to_vec),
                header: record.headers().map(|headers| {
                    let header = headers.get(0);
                    format!("{}={}", header.key, String::from_utf8_lossy(header.value.unwrap_or_default()))
                }),
                timestamp_ms: record.timestamp().to_millis().expect("a timestamp"),
            }),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("reading `{topic}`: {error}"),
            None => {}
        }
    }
    all
}

/// Begins a copy of so many records three times, and kills it each time.
pub(crate) fn kill_thrice(site: &Site, server: &Server, wanted: &[&str], into: &str, records: usize) {
    let rate = (records / 6).to_string();
    for round in 0..3 {
        let mut copying = begin(site, &[wanted, &["--rate", &rate]].concat());
        // It has committed something in this round, and is killed in the middle of the next transaction.
        wait::until("the copy goes on", PATIENCE, || {
            let come = read(server, into).values().map(Vec::len).sum::<usize>();
            (come > (round + 1) * records / 8).then_some(())
        });
        assert!(copying.try_wait().expect("waiting for a child").is_none(), "it is not done yet when it is killed");
        copying.kill().expect("killing a child");
        copying.wait().expect("waiting for a killed child");
    }
}

#[test]
fn each_record_is_copied_once_though_the_copy_and_kafka_are_killed() {
    let site = Site::new("[kafka]\npartitions = 3\n");
    let server = site.up();
    make(&server, "source", &[]);
    make(&server, "copy", &[]);
    fill(&server, RECORDS, 7);
    let source = read(&server, "source");
    let wanted = ["--into", "copy", "--rate", "15000"];
    kill_thrice(&site, &server, &["--into", "copy"], "copy", RECORDS);
    let copying = begin(&site, &wanted);
    let killed = server.kill_kafka().expect("Kafka runs");
    server.wait_recovered(killed);
    let ended = copying.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(read(&server, "copy"), source, "by partition, in order");

    // Again there is nothing to do.
    let again = publish(&site, &wanted);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.starts_with("0 records") && said.contains("all of the range has been copied"), "{said}");
    // A part by time is another copy, and so is a part by offsets.
    assert!(publish(&site, &["--into", "part", "--from", "1700000070000", "--to", "1700000140000"]).status.success());
    let part = read(&server, "part");
    let expected: BTreeMap<i32, Vec<Copied>> = source
        .iter()
        .map(|(partition, records)| {
            let within = |record: &&Copied| (1_700_000_070_000..1_700_000_140_000).contains(&record.timestamp_ms);
            (*partition, records.iter().filter(within).cloned().collect())
        })
        .collect();
    assert_eq!(part, expected);
    let offsets = ["--into", "few", "--from", "0:10,1:0,2:5", "--to", "0:20,1:0,2:6", "--now", "--name", "few"];
    assert!(publish(&site, &offsets).status.success());
    let few = read(&server, "few");
    assert_eq!(few.get(&0).map(Vec::len), Some(10));
    assert_eq!((few.get(&1).map(Vec::len), few.get(&2).map(Vec::len)), (None, Some(1)));
    assert_eq!(few[&0][0].payload, source[&0][10].payload);
    assert!(few[&0][0].timestamp_ms > BEGAN_MS + 1_000_000_000, "timed as it was copied");

    for (arguments, wanted) in [
        (&["--into", "source"][..], "into itself"),
        (&["--into", "few", "--from", "0:11", "--name", "few"], "give this one another name"),
        (&["--into", "other", "--to", "0:99999999"], "partition 0 has the offsets from 0 up to"),
        (&["--into", "other", "--speed", "fast"], "is no speed"),
        (&["--into", "other", "--rate", "0"], "is no number of records a second"),
    ] {
        let output = publish(&site, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{arguments:?}: {said}");
    }
    // And what has come since is copied by the same copy.
    fill(&server, 30, 7);
    let more = publish(&site, &wanted);
    assert!(String::from_utf8_lossy(&more.stdout).starts_with("30 records"), "{more:?}");
    assert_eq!(read(&server, "copy"), read(&server, "source"));
    server.stop();
}

pub(crate) fn at_sixty_times_the_speed_records_follow_each_other_as_their_timestamps_say() {
    let site = Site::alone("[kafka]\npartitions = 3\n");
    let server = site.up();
    make(&server, "source", &[]);
    // Three seconds apart, so 50 ms at sixty times: over three partitions.
    fill(&server, 200, 3000);
    make(&server, "paced", &[("message.timestamp.type", "LogAppendTime")]);
    let done = publish(&site, &["--into", "paced", "--speed", "60x"]);
    assert!(done.status.success(), "{done:?}");
    let mut appended: Vec<i64> = read(&server, "paced").into_values().flatten().map(|record| record.timestamp_ms).collect();
    appended.sort_unstable();
    assert_eq!(appended.len(), 200);
    let mut off: Vec<i64> = appended.windows(2).map(|pair| (pair[1] - pair[0] - 50).abs()).collect();
    off.sort_unstable();
    let median = off[off.len() / 2];
    tidemark_tests::figure::figure("publish at 60x: off by, median and p95", format!("{median} ms and {} ms", off[off.len() * 95 / 100]));
    assert!(median <= 5, "the median is {median} ms off: {off:?}");
    server.stop();
}
