//! What an operator can do to a Kafka behind Tidemark's back.

use crate::wait;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use std::future::Future;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

/// An administrator's client.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    pub fn of(kafka: &str) -> Self {
        let client = ClientConfig::new().set("bootstrap.servers", kafka).create().expect("an admin client");
        Self { client, runtime: tokio::runtime::Runtime::new().expect("a runtime") }
    }

    /// Does something, again until Kafka has done it: it refuses some things for a while.
    fn insist<T, E: std::fmt::Debug, F: Future<Output = Result<Vec<Result<T, E>>, rdkafka::error::KafkaError>>>(
        &self,
        what: &str,
        ask: impl Fn() -> F,
    ) {
        wait::until(what, DEADLINE, || {
            let answers = self.runtime.block_on(ask()).expect("Kafka answers");
            answers.into_iter().all(|answer| answer.is_ok()).then_some(())
        });
    }

    /// Deletes a consumer group with its positions, once it has no members.
    pub fn delete_group(&self, group: &str) {
        self.insist("the group is deleted", || async { self.client.delete_groups(&[group], &AdminOptions::new()).await });
    }

    pub fn delete_topic(&self, topic: &str) {
        self.insist("the topic is deleted", || async { self.client.delete_topics(&[topic], &AdminOptions::new()).await });
    }

    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.insist("the topic is created", || {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
            async move { self.client.create_topics([&new], &AdminOptions::new()).await }
        });
    }

    /// The topic has so many partitions from here on.
    pub fn grow_topic(&self, topic: &str, partitions: usize) {
        self.insist("the topic has grown", || {
            let new = NewPartitions::new(topic, partitions);
            async move { self.client.create_partitions([&new], &AdminOptions::new()).await }
        });
    }
}
