//! Accidents of operations: a lost group position, another group, another topic, more partitions. Whatever happens, an answer is
//! exact at its cut or refused with the reason; afterwards everything is equal to a recount of the topic.

use crate::disaster::{CONFIG, EPOCH_BITS, Roles, restore};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidemark_tests::admin::Admin;
use tidemark_tests::client::{Client, Position};
use tidemark_tests::cluster::{Cluster, Endpoints};
use tidemark_tests::data;
use tidemark_tests::proxy::{ApiKey, Proxy, Weather};
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::role::{Role, Way};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);

fn configure(cluster: &Cluster, config: &str) {
    fs::write(cluster.dir().join("config.toml"), config).expect("writing the configuration");
}

/// Writes to one partition, past ingest.
fn produce(kafka: &str, partition: i32, lines: &[&[u8]]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", kafka).create().expect("a producer");
    for line in lines {
        let record = BaseRecord::<(), [u8]>::to("events").partition(partition).payload(line);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(DEADLINE).expect("everything is acknowledged");
}

/// An answer's rows, and where it stays.
fn take(client: &Client, question: &Question) -> (Value, String) {
    let reply = client.get(&question.path(None));
    (reply.json()["rows"].clone(), reply.link.expect("an answer says where it stays"))
}

/// The group's position is deleted while everything is stopped, as Kafka does after `offsets.retention.minutes`; then the group
/// has another name.
#[test]
fn a_lost_position_is_found_again_and_another_group_is_refused() {
    let cluster = Cluster::start(1);
    configure(&cluster, CONFIG);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..6_000];
    let question = Question::by("1h", &["event_type"]);

    let roles = Roles::start(&cluster);
    let position = roles.send(&lines[..4_000]);
    roles.settle(&cluster, &position);
    let (rows, link) = take(&roles.serve.client, &question);
    let check_link = |roles: &Roles| assert_eq!(roles.serve.client.got(&link)["rows"], rows);
    roles.stop();
    Admin::of(&cluster.kafka()).delete_group("tidemark-batch-g1");
    let roles = Roles::start(&cluster);
    let position = roles.send(&lines[4_000..5_000]);
    roles.settle(&cluster, &position);
    check_link(&roles);
    roles.stop();

    configure(&cluster, &CONFIG.replace("[kafka]\n", "[kafka]\ngroup = \"renamed\"\n"));
    for role in ["batch", "speed", "serve"] {
        let said = Role::refused(&cluster, role);
        assert!(said.contains("`tidemark-batch-g1`") && said.contains("`renamed-batch-g1`") && said.contains("tidemark restore"), "{said}");
    }
    let (done, said) = restore(&cluster, &[]);
    assert!(!done && said.contains("`renamed-batch-g1` takes over from `tidemark-batch-g1`"), "{said}");
    let (done, said) = restore(&cluster, &["--confirm", "events"]);
    assert!(done, "{said}");
    let roles = Roles::start(&cluster);
    let position = roles.send(&lines[5_000..]);
    roles.settle(&cluster, &position);
    check_link(&roles);
    roles.stop();
}

/// The topic is deleted and created again, with more records than before, while everything runs.
#[test]
fn another_topic_of_the_name_is_not_merged_with_history() {
    let cluster = Cluster::start(1);
    let url = cluster.clickhouse();
    configure(&cluster, &format!("{CONFIG}[clickhouse]\nurl = \"{url}\"\n"));
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..9_000];
    let (kafka, question) = (cluster.kafka(), Question::total());

    let mut roles = Roles::start(&cluster);
    let position = roles.send(&lines[..3_000]);
    roles.settle(&cluster, &position);
    let before = Recount::read(&kafka, "events", EPOCH_BITS);
    let (admin, stop) = (Admin::of(&kafka), AtomicBool::new(false));
    let serve = roles.serve.client.clone();
    let taken: Vec<Answer> = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut taken = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                taken.extend(question.try_ask(&serve));
                std::thread::sleep(Duration::from_millis(20));
            }
            taken
        });
        admin.delete_topic("events");
        admin.create_topic("events", 2);
        (0..2).for_each(|partition| produce(&kafka, partition, &lines[3_000..6_000]));
        [&mut roles.batch, &mut roles.speed, &mut roles.serve].into_iter().for_each(Role::wait_ended);
        stop.store(true, Ordering::Relaxed);
        asking.join().expect("the asker goes on to the end")
    });
    assert!(!taken.is_empty(), "nothing was answered meanwhile");
    for answer in &taken {
        before.check(&question, answer).unwrap_or_else(|what| panic!("while the topic was replaced: {what}"));
    }
    roles.ingest.stop();
    for role in ["batch", "speed", "serve"] {
        let said = Role::refused(&cluster, role);
        assert!(said.contains("is not the one that this history was counted from") && said.contains("tidemark restore"), "{said}");
    }
    let said = wait::until("the group has let go of the processes that ended", DEADLINE, || {
        let (done, said) = restore(&cluster, &["--confirm", "events"]);
        assert!(!done, "{said}");
        (!said.contains("processes are in the group")).then_some(said)
    });
    assert!(said.contains("it holds other records"), "{said}");

    // No role makes another topic for this history.
    admin.delete_topic("events");
    for role in ["ingest", "batch", "speed", "serve"] {
        let said = Role::refused(&cluster, role);
        assert!(said.contains("there is no topic `events`"), "{said}");
    }
}

/// Asks by a view and by raw events, again and again, until both have all; every answer is exact at its cut.
fn follow(client: &Client, recount: &Recount, position: &Position) {
    let by_user = Question { filters: vec![("user_id", "N14228")], ..Question::total() };
    for question in [Question::total(), by_user, Question::by("1h", &["user_id"])] {
        wait::until("an answer has the new partition", DEADLINE, || {
            let answer = question.try_ask(client).filter(|answer| answer.cut.len() == position.len())?;
            recount.check(&question, &answer).unwrap_or_else(|what| panic!("{question:?}: {what}"));
            position.iter().all(|(partition, next)| answer.cut.get(partition) >= Some(next)).then_some(())
        });
        let reply = client.get(&question.path(Some(position)));
        assert_eq!(reply.status, 200, "{}", reply.text());
        recount.check(&question, &Answer::read(&reply.json())).unwrap_or_else(|what| panic!("{question:?}: {what}"));
        let link = reply.link.clone().expect("an answer says where it stays");
        assert_eq!(client.got(&link)["rows"], reply.json()["rows"], "{link}");
    }
}

#[test]
fn partitions_that_are_added_are_counted_by_every_question() {
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..900];
    let all_of = |recount: &Recount| recount.ends.iter().map(|(&partition, &end)| (partition, end)).collect::<Position>();

    let site = Site::new("[kafka]\npartitions = 2\n[counting]\nepoch_bits = 7\n[batch]\nmax_age_ms = 200\n");
    let server = site.up();
    let kafka = server.runtime().kafka;
    (0..2).for_each(|partition| produce(&kafka, partition, &lines[..300]));
    wait::until("all is counted", DEADLINE, || Question::total().try_ask(&server.client).filter(|answer| answer.count() > 0));
    Admin::of(&kafka).grow_topic("events", 3);
    produce(&kafka, 2, &lines[300..]);
    // No process has found the partition yet.
    let reply = server.client.get("/v1/query?at_least=2:1&timeout_ms=30000");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let recount = Recount::read(&kafka, "events", 7);
    follow(&server.client, &recount, &all_of(&recount));
    let status = server.settled();
    assert_eq!(status["partitions"].as_array().map(Vec::len), Some(3));
    drop(server);

    let cluster = Cluster::start(1);
    configure(&cluster, CONFIG);
    let (kafka, roles) = (cluster.kafka(), Roles::start(&cluster));
    let position = roles.send(&lines[..300]);
    roles.settle(&cluster, &position);
    Admin::of(&kafka).grow_topic("events", 4);
    (2..4).for_each(|partition| produce(&kafka, partition, &lines[300..600]));
    let recount = Recount::read(&kafka, "events", EPOCH_BITS);
    follow(&roles.serve.client, &recount, &all_of(&recount));
    let position = roles.send(&lines[600..]);
    roles.settle(&cluster, &position);
    roles.stop();
}

/// Two batch layers share the topic, and one of them is cut off from ClickHouse: it gives its partitions to the other one, and comes
/// back when it is answered.
#[test]
fn a_batch_layer_that_clickhouse_does_not_answer_gives_its_partitions_away() {
    let cluster = Cluster::start(1);
    configure(&cluster, &CONFIG.replace("[batch]\n", "[batch]\ngive_up_after_ms = 2000\n"));
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..4_000];
    let roles = Roles::start(&cluster);
    let proxy = Proxy::to(cluster.clickhouse_port());
    let clickhouse = cluster.clickhouse().replace(&cluster.clickhouse_port().to_string(), &proxy.port().to_string());
    let servers = Some(Endpoints { clickhouse, ..cluster.endpoints() });
    let cut_off = Role::by(&cluster, "batch", "cut-off", &Way { servers, ..Way::default() });
    // Each has one of the two partitions.
    let position = roles.send(&lines[..2_000]);
    roles.settle(&cluster, &position);

    proxy.silence(true);
    let position = roles.send(&lines[2_000..]);
    roles.settle(&cluster, &position);
    let said = cut_off.client.get("/readyz").text();
    assert!(said.contains("history"), "{said}");
    proxy.silence(false);
    wait::until("it is back", DEADLINE, || (cut_off.client.get("/readyz").status == 200).then_some(()));
    cut_off.stop();
    roles.stop();
}

/// Brokers deliver records and do not say which topic they are from: the records are not taken, and none that follow them is taken
/// in their place. So it stays while the topic is confirmed and the position is not; then all are read.
#[test]
fn records_of_a_topic_that_is_not_confirmed_are_read_again_before_what_follows_them() {
    let cluster = Cluster::start(1);
    configure(&cluster, CONFIG);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..3_000];
    let servers = Some(Endpoints { kafka: cluster.kafka_by_door(0), ..cluster.endpoints() });
    let way = Way { servers, environment: vec![("RUST_LOG".into(), "info,kafka=debug".into())], ..Way::default() };
    let on = |role: &str| Role::on(&cluster, role, role);
    let by_door = |role: &str| Role::by(&cluster, role, role, &way);
    let roles = Roles { ingest: on("ingest"), speed: by_door("speed"), batch: by_door("batch"), serve: on("serve") };
    let position = roles.send(&lines[..1_000]);
    roles.settle(&cluster, &position);

    cluster.set_door(0, Weather::Without(ApiKey::METADATA));
    // Longer than the silence after which a topic has to be confirmed.
    std::thread::sleep(Duration::from_secs(1));
    roles.send(&lines[1_000..1_500]);
    for role in ["speed", "batch"] {
        let log = cluster.dir().join(format!("{role}.log"));
        wait::until("records have come and could not be confirmed", DEADLINE, || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("the topic cannot be confirmed now")).then_some(())
        });
    }
    cluster.set_door(0, Weather::Without(ApiKey::LIST_OFFSETS));
    for lines in lines[1_500..2_500].chunks(100) {
        roles.send(lines);
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.set_door(0, Weather::Clear);
    let position = roles.send(&lines[2_500..]);
    roles.settle(&cluster, &position);
    let holes: u64 = roles.serve.client.status()["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|at| at["accounted"]["holes"].as_u64().expect("a number"))
        .sum();
    assert_eq!(holes, 0, "a record that was not taken is no hole");
    roles.stop();
}

/// A producer opens a transaction and does not end it: nothing behind it can be counted, which is named; then everything is.
#[test]
fn an_open_transaction_is_named_and_what_is_behind_it_counted_when_it_ends() {
    let site = Site::new("[kafka]\npartitions = 1\n[counting]\nepoch_bits = 7\n[batch]\nmax_age_ms = 200\n");
    let server = site.up();
    let kafka = server.runtime().kafka;
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..600];
    produce(&kafka, 0, &lines[..200]);
    let transactional: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka)
        .set("transactional.id", "forgetful")
        .create()
        .expect("a transactional producer");
    transactional.init_transactions(DEADLINE).expect("transactions");
    transactional.begin_transaction().expect("a transaction");
    for line in &lines[200..300] {
        let record = BaseRecord::<(), [u8]>::to("events").partition(0).payload(line);
        transactional.send(record).map_err(|(error, _)| error).expect("queued");
    }
    transactional.flush(DEADLINE).expect("written");
    produce(&kafka, 0, &lines[300..]);
    let trouble = |server: &Server| server.client.status()["layers"]["speed"]["trouble"].as_str().map(str::to_owned);
    let said = wait::until("the transaction is named", DEADLINE, || trouble(&server));
    assert!(said.contains("partition 0 stands at offset 200") && said.contains("transaction is open"), "{said}");
    assert_eq!(Question::total().ask(&server.client, None).count(), 200, "an older cut, and exact");
    transactional.commit_transaction(DEADLINE).expect("committed");
    wait::until("everything is counted", DEADLINE, || (Question::total().ask(&server.client, None).count() == 600).then_some(()));
    wait::until("nothing is wrong any more", DEADLINE, || trouble(&server).is_none().then_some(()));
    let accounted = &server.client.status()["partitions"][0]["accounted"];
    // 600 events, and the mark that ends the transaction.
    assert_eq!((&accounted["events"], &accounted["holes"], &accounted["to"]), (&600.into(), &1.into(), &601.into()), "{accounted}");
    server.stop();
}
