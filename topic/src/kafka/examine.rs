//! What an operator wants to know of the topic, its brokers and its groups. Nothing is made, and nothing is decided here.

use super::{ANSWER_DEADLINE, Admin, GroupPositions};
use crate::{Error, Partition, TopicIdentity};
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::Consumer as _;
use std::collections::BTreeMap;

/// A topic as its brokers describe it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Examined {
    /// Brokers that run.
    pub brokers: usize,
    pub partitions: u32,
    /// Partitions that nobody can read or write now.
    pub leaderless: Vec<Partition>,
    /// Copies of the partition that has the fewest.
    pub replicas: usize,
    /// Copies that are up to date, of the partition that has the fewest of them.
    pub in_sync: usize,
    /// Partitions of which some copies are not up to date.
    pub behind: Vec<Partition>,
    /// The topic's settings as they hold, broker's defaults included; `None` if the principal may not see them.
    pub settings: Option<BTreeMap<String, String>>,
    /// Which topic it is.
    pub identity: TopicIdentity,
    /// How long Kafka keeps the positions of a group without members (`offsets.retention.minutes`); `None` if the principal may
    /// not see it.
    pub positions_kept_minutes: Option<i64>,
}

/// What the coordinator says of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Kafka's word: `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead`. Empty if there is no such group.
    pub state: String,
    pub members: usize,
}

impl Admin {
    /// Looks at the topic; `NoSuchTopic` if there is none.
    pub async fn examine(&self) -> Result<Examined, Error> {
        let (mut found, broker) = self.blocking(Self::examine_partitions).await?;
        found.identity = self.describe().await?.identity;
        found.settings = self.settings_of(ResourceSpecifier::Topic(&self.kafka.topic)).await?;
        let of_broker = self.settings_of(ResourceSpecifier::Broker(broker)).await?;
        found.positions_kept_minutes = of_broker.and_then(|settings| settings.get("offsets.retention.minutes")?.parse().ok());
        Ok(found)
    }

    /// True if Kafka removes records whose key has come again; also where the principal may not see it, false.
    pub async fn is_compacted(&self) -> Result<bool, Error> {
        let settings = self.settings_of(ResourceSpecifier::Topic(&self.kafka.topic)).await?;
        Ok(settings.is_some_and(|settings| settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))))
    }

    /// `None` if the principal may not see them.
    async fn settings_of(&self, resource: ResourceSpecifier<'_>) -> Result<Option<BTreeMap<String, String>>, Error> {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_DEADLINE));
        let described = self.client.describe_configs(&[resource], &options).await;
        let described = described.map_err(|error| self.kafka.client_error(&error, "asking for settings"))?;
        let resource = described.into_iter().find_map(Result::ok);
        Ok(resource.map(|resource| resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()))
    }

    /// Asks for all topics: a broker may make one that is asked for by its name. Gives one of the brokers' ids, too.
    fn examine_partitions(&self) -> Result<(Examined, i32), Error> {
        let doing = "asking for the topic's partitions";
        let metadata = self.client.inner().fetch_metadata(None, ANSWER_DEADLINE);
        let metadata = metadata.map_err(|error| self.kafka.client_error(&error, doing))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.kafka.topic);
        let topic = topic.ok_or_else(|| Error::NoSuchTopic { topic: self.kafka.topic.clone() })?;
        let partitions = topic.partitions();
        let numbers = |wanted: fn(&rdkafka::metadata::MetadataPartition) -> bool| {
            partitions.iter().filter(|partition| wanted(partition)).map(|partition| Partition(partition.id().unsigned_abs())).collect()
        };
        let found = Examined {
            brokers: metadata.brokers().len(),
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            leaderless: numbers(|partition| partition.leader() < 0),
            replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or(0),
            behind: numbers(|partition| partition.isr().len() < partition.replicas().len()),
            ..Examined::default()
        };
        Ok((found, metadata.brokers().first().map_or(-1, rdkafka::metadata::MetadataBroker::id)))
    }
}

impl GroupPositions {
    /// What the group is doing.
    pub async fn group(&self) -> Result<Group, Error> {
        self.blocking(|this| {
            let groups = this.client.fetch_group_list(Some(&this.group), ANSWER_DEADLINE);
            let groups = groups.map_err(|error| this.kafka.client_error(&error, "asking for a group's members"))?;
            let group = groups.groups().iter().find(|group| group.name() == this.group);
            Ok(group.map(|group| Group { state: group.state().to_owned(), members: group.members().len() }).unwrap_or_default())
        })
        .await
    }
}
