//! What retention does to a topic, when a test wants it.

use crate::server::Server;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::Duration;

/// Removes all but the last records of each partition, as retention does.
pub fn remove(server: &Server, left: u64) {
    let kafka = server.runtime().kafka;
    let topic = server.topic();
    let admin = admin(&kafka);
    let mut before = Vec::new();
    for at in server.client.status()["partitions"].as_array().expect("the status lists partitions") {
        let partition = i32::try_from(at["partition"].as_i64().expect("a number")).expect("an i32");
        // Of Kafka itself: the server knows the end as of its last fetch.
        let (_, end) = admin.inner().fetch_watermarks(&topic, partition, Duration::from_secs(10)).expect("Kafka answers");
        let left = end - i64::try_from(left).expect("an i64");
        assert!(left > 0, "partition {partition} has {end} records");
        before.push((partition, left));
    }
    remove_before(&kafka, &topic, &before);
}

fn admin(kafka: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka).create().expect("an admin client")
}

/// Removes from each of these partitions the records before an offset.
pub fn remove_before(kafka: &str, topic: &str, offsets: &[(i32, i64)]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).expect("a place in the list");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let removed = runtime.block_on(admin(kafka).delete_records(&list, &AdminOptions::new())).expect("records are removed");
    for element in removed.elements() {
        element.error().unwrap_or_else(|error| panic!("partition {}: {error}", element.partition()));
    }
}

/// Lets the topic keep its records for so long; -1 is for ever.
pub fn keep(server: &Server, ms: i64) {
    let (kafka, topic, ms) = (server.runtime().kafka, server.topic(), ms.to_string());
    let admin = admin(&kafka);
    let config = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", &ms);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let altered = runtime.block_on(admin.alter_configs([&config], &AdminOptions::new())).expect("Kafka answers");
    altered.into_iter().for_each(|topic| drop(topic.expect("the topic is altered")));
}
