//! The topic, and how far its records have come: looked at by [`look`] and [`follow`], judged by the rest.

use super::finding::{Finding, bytes, count, span};
use crate::input::identity_of;
use std::collections::BTreeMap;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::EpochBits;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::generations::Input;
use tidemark_topic::kafka::{Examined, Group, Kafka};
use tidemark_topic::{Error, Extent, TopicIdentity, now_ms};

/// Shorter than this, history need only stand still while somebody is woken.
const SHORTEST_RETENTION_MS: i64 = 3_600_000;
/// Shorter than this, a night is too long.
const SHORT_RETENTION_MS: i64 = 24 * 3_600_000;
/// Shorter than a weekend, a deployment that is stopped on Friday has lost its positions on Monday.
const SHORTEST_POSITIONS_MINUTES: i64 = 3 * 24 * 60;
/// What a record takes besides its event: key, headers, framing.
const RECORD_OVERHEAD: u64 = 1024;
/// The largest batch that ingest's client sends unless it is told otherwise (`message.max.bytes`).
const CLIENT_BATCH: u64 = 1_000_000;
/// Records that a layer may be behind; the alert has the same number.
const LAG: u64 = 100_000;

/// The topic as it is.
#[derive(Debug)]
pub struct Found {
    pub examined: Examined,
    pub extents: BTreeMap<Partition, Extent>,
    /// From here on records are younger than half of the retention; `None` if nothing is removed by age.
    half: Option<Cut>,
}

/// How far the layers are.
#[derive(Debug, Default)]
pub struct Progress {
    /// H, as far as the batch layer has committed.
    pub reached: BTreeMap<Partition, NextOffset>,
    /// The groups of the layers, by name.
    pub groups: Vec<(String, Group)>,
}

pub async fn look(kafka: &Kafka) -> Result<Found, Error> {
    let admin = kafka.admin()?;
    let examined = admin.examine().await?;
    let extents = if examined.leaderless.is_empty() { admin.extents().await? } else { BTreeMap::new() };
    let half = match number(&examined, "retention.ms") {
        Some(retention) if retention > 0 && !extents.is_empty() => {
            let (kafka, partitions, at) = (kafka.clone(), examined.partitions, now_ms() - retention / 2);
            let asked = tokio::task::spawn_blocking(move || kafka.offsets_at(partitions, at)).await;
            Some(asked.map_err(|stopped| Error::Refused { reason: stopped.to_string() })??)
        }
        _ => None,
    };
    Ok(Found { examined, extents, half })
}

/// The batch layer's group is the first.
pub async fn follow(kafka: &Kafka, partitions: u32, groups: Vec<String>) -> Result<Progress, Error> {
    let mut progress = Progress::default();
    for name in groups {
        let positions = kafka.group_positions(&name)?;
        if progress.groups.is_empty() {
            progress.reached = positions.look(partitions).await?;
        }
        progress.groups.push((name, positions.group().await?));
    }
    Ok(progress)
}

fn number(examined: &Examined, setting: &str) -> Option<i64> {
    examined.settings.as_ref()?.get(setting)?.parse().ok()
}

fn list(partitions: &[Partition]) -> String {
    let numbers: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    format!("partition{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// There could be none, or it could not be asked.
pub fn absent(topic: &str, at: &str, error: &Error) -> Finding {
    match error {
        Error::NoSuchTopic { .. } => Finding::failure(
            "topic",
            format!("there is no topic `{topic}` in the Kafka at {at}"),
            "ingest or a layer makes it at its start, as kafka.partitions and kafka.replication say; if it should be there, look at kafka.topic",
        ),
        Error::Unavailable { .. } => Finding::failure(
            "topic",
            error.to_string(),
            "nothing can be sent or counted before it does: look at the brokers and their log, and whether this machine reaches the addresses that they give themselves",
        ),
        _ => Finding::failure(
            "topic",
            error.to_string(),
            "look at kafka.bootstrap, the settings in [kafka.client], and what this principal may do",
        ),
    }
}

pub fn topic(name: &str, wanted: u32, found: &Examined) -> Finding {
    let (n, leaderless) = (found.partitions, &found.leaderless);
    if !leaderless.is_empty() {
        return Finding::failure(
            "topic",
            format!("`{name}`: {} cannot be read or written: no broker leads", list(leaderless)),
            "start the brokers that have the copies; counting goes on by itself then",
        );
    }
    let note = if n == wanted { String::new() } else { format!(" (kafka.partitions = {wanted} is for a topic that is made)") };
    Finding::ok("topic", format!("`{name}` has {n} partitions, each with a leader{note}"))
}

/// Whether the topic and the group are those that history was counted from.
pub fn input(topic: &str, group: &str, known: Option<&Input>, found: &TopicIdentity) -> Finding {
    let check = "input";
    let Some(known) = known else {
        return Finding::ok(check, format!("history does not say yet which topic it was counted from; this one has {found}"));
    };
    let expected = identity_of(known);
    if !expected.may_be(found) {
        return Finding::failure(
            check,
            format!("`{topic}` has {found}, but history was counted from the topic that has {expected}: nothing is counted or answered"),
            "name the cluster that has that topic (kafka.bootstrap); if this one is a copy with the same offsets, `tidemark restore` takes it over; \
             else begin a new history (another clickhouse.database and kafka.group)",
        );
    }
    if known.batch_group != group {
        return Finding::failure(
            check,
            format!("history was written by the group {}, but the configuration names {group}", known.batch_group),
            "put kafka.group back, or stop every tidemark and run `tidemark restore`",
        );
    }
    Finding::ok(check, format!("`{topic}` is the topic that history was counted from, by the group {group}"))
}

/// Whether Kafka keeps the group's positions through a stop.
pub fn positions(found: &Examined) -> Finding {
    let check = "positions";
    let Some(minutes) = found.positions_kept_minutes else {
        return Finding::warning(
            check,
            "this principal may not see how long Kafka keeps the positions of a stopped group",
            "allow it DescribeConfigs on the cluster, or look at offsets.retention.minutes yourself",
        );
    };
    let kept = span(minutes.saturating_mul(60_000));
    if minutes < SHORTEST_POSITIONS_MINUTES {
        return Finding::warning(
            check,
            format!("Kafka forgets the positions of a group that has been stopped for {kept}"),
            "after a longer stop, what history has above the marks is deleted and written again, and if retention has removed some of it from the \
             topic, the batch layer refuses to go on. Set offsets.retention.minutes of the brokers to 10080 (a week) or more",
        );
    }
    Finding::ok(check, format!("Kafka keeps the positions of a stopped group for {kept}"))
}

/// `own`: the one node that `tidemark up` brings along.
pub fn replication(found: &Examined, own: bool) -> Finding {
    let check = "replication";
    let Examined { brokers, replicas, in_sync, behind, .. } = found;
    let least = number(found, "min.insync.replicas").and_then(|least| usize::try_from(least).ok()).unwrap_or(1);
    let copies = format!(
        "{replicas} {} of each record on {brokers} broker{}",
        if *replicas == 1 { "copy" } else { "copies" },
        if *brokers == 1 { "" } else { "s" }
    );
    if least > *in_sync {
        return Finding::failure(
            check,
            format!("nothing can be written: min.insync.replicas is {least}, and of a partition {in_sync} are there"),
            if least > *replicas {
                "lower min.insync.replicas, or give the topic more copies"
            } else {
                "start the brokers that are missing"
            },
        );
    }
    if !behind.is_empty() {
        return Finding::warning(
            check,
            format!("{copies}, but of {} some are not up to date", list(behind)),
            "start the brokers that are missing, or look why they lag",
        );
    }
    match (*replicas, least) {
        (1, _) if own => Finding::ok(check, format!("{copies}: what is lost with this disk is lost")),
        (1, _) => Finding::warning(
            check,
            format!("{copies}: what is lost with a disk is lost"),
            "three brokers, kafka.replication = 3 and min.insync.replicas = 2 lose nothing with one of them",
        ),
        (_, 1) => Finding::warning(
            check,
            format!("{copies}, but min.insync.replicas is 1: what one broker alone has acknowledged can be lost with it"),
            "set min.insync.replicas to 2 for this topic",
        ),
        _ => Finding::ok(check, format!("{copies}, {least} must have it before it is acknowledged")),
    }
}

/// Whether the topic forgets what history does not have yet.
pub fn retention(found: &Found, progress: &Progress) -> Finding {
    let check = "retention";
    let Found { examined, extents, half } = found;
    let gone: Vec<Partition> = reached(progress)
        .filter(|(partition, at)| extents.get(partition).is_some_and(|extent| *at < extent.start))
        .map(|(p, _)| p)
        .collect();
    if !gone.is_empty() {
        return Finding::failure(
            check,
            format!("of {} the topic has forgotten records that history does not have", list(&gone)),
            "nobody can count them any more: the batch layer stands still and says which. Lengthen retention.ms, and begin a new history, or restore one that has them (docs/operations.md)",
        );
    }
    let Some(settings) = &examined.settings else {
        return Finding::warning(check, "this principal may not see the topic's settings", "allow it DescribeConfigs on the topic");
    };
    if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        return Finding::failure(
            check,
            "the topic is compacted: Kafka removes records that are to be counted",
            "set cleanup.policy to delete",
        );
    }
    let late: Vec<Partition> = match half {
        Some(half) => reached(progress).filter(|(partition, at)| *at < half.get(*partition)).map(|(partition, _)| partition).collect(),
        None => Vec::new(),
    };
    let retention = number(examined, "retention.ms").unwrap_or(-1);
    if !late.is_empty() {
        return Finding::failure(
            check,
            format!(
                "of {} history lacks records that have half of their time over: the topic keeps them for {}",
                list(&late),
                span(retention)
            ),
            "lengthen retention.ms now, and see what holds the batch layer up (lag, clickhouse)",
        );
    }
    by_length(retention, number(examined, "retention.bytes").unwrap_or(-1))
}

fn by_length(retention: i64, size: i64) -> Finding {
    let check = "retention";
    let advice = "history must never stand still for so long: give retention.ms a day or more, or -1";
    match retention {
        0..SHORTEST_RETENTION_MS => Finding::failure(check, format!("the topic keeps records for {} only", span(retention)), advice),
        SHORTEST_RETENTION_MS..SHORT_RETENTION_MS => {
            Finding::warning(check, format!("the topic keeps records for {}", span(retention)), advice)
        }
        _ if size >= 0 => Finding::warning(
            check,
            format!("the topic keeps the last {} of a partition, however young they are", bytes(size.unsigned_abs())),
            "a burst may remove what history does not have yet: set retention.bytes to -1, and go by time",
        ),
        ..0 => Finding::ok(check, "the topic keeps its records for ever"),
        _ => Finding::ok(check, format!("the topic keeps records for {}", span(retention))),
    }
}

fn reached(progress: &Progress) -> impl Iterator<Item = (Partition, NextOffset)> {
    // Where nothing has been committed, counting begins with what there is.
    progress.reached.iter().map(|(&partition, &at)| (partition, at)).filter(|(_, at)| *at > NextOffset::ZERO)
}

/// Whether what ingest takes fits into the topic; `batch` is the client's own limit.
pub fn message_size(found: &Examined, max_event: u64, batch: Option<&String>) -> Option<Finding> {
    let check = "message-size";
    let most = u64::try_from(number(found, "max.message.bytes")?).ok()?;
    let batch = batch.and_then(|batch| batch.parse().ok()).unwrap_or(CLIENT_BATCH);
    Some(if most < max_event + RECORD_OVERHEAD {
        Finding::failure(
            check,
            format!("an event may have {} (event.max_bytes), but the topic takes {} (max.message.bytes)", bytes(max_event), bytes(most)),
            "raise max.message.bytes of the topic above it, 1 MiB is Kafka's default; or lower event.max_bytes",
        )
    } else if most < batch {
        Finding::warning(
            check,
            format!("ingest sends batches of up to {}, but the topic takes {} (max.message.bytes)", bytes(batch), bytes(most)),
            format!("raise max.message.bytes, or set \"message.max.bytes\" = \"{most}\" in [kafka.client]"),
        )
    } else {
        Finding::ok(check, format!("the topic takes batches of {}, events of {} fit", bytes(most), bytes(max_event)))
    })
}

/// `runs`: a tidemark was seen to run, so that its layers should be in their groups.
pub fn groups(progress: &Progress, runs: bool) -> Finding {
    let check = "groups";
    let mut said = Vec::new();
    for (name, Group { state, members }) in &progress.groups {
        if *members == 0 && runs {
            return Finding::failure(
                check,
                format!("nobody is in the group {name}"),
                "that layer does not run, or does not reach Kafka: its log says why. Until it is back, history stands still, or answers get older",
            );
        }
        if *members == 0 {
            return Finding::warning(
                check,
                format!("nobody is in the group {name}"),
                "start what should be: `tidemark up`, or `tidemark batch` and `tidemark speed`",
            );
        }
        if state.contains("Rebalance") {
            return Finding::warning(
                check,
                format!("the group {name} ({members} members) is dividing its partitions"),
                "if it does so for longer than kafka.session_timeout_ms, a member comes and goes: look at their logs",
            );
        }
        said.push(format!("{name} has {members} member{}", if *members == 1 { "" } else { "s" }));
    }
    Finding::ok(check, said.join(", "))
}

/// How far history is behind the topic.
pub fn lag(found: &Found, progress: &Progress, bits: EpochBits) -> Finding {
    let behind = |(partition, extent): (&Partition, &Extent)| {
        let at = progress.reached.get(partition).copied().unwrap_or_default().max(extent.start);
        (extent.end.since(at), *partition)
    };
    let all: u64 = found.extents.iter().map(|at| behind(at).0).sum();
    let (worst, partition) = found.extents.iter().map(behind).max().unwrap_or((0, Partition(0)));
    let most = LAG.max(2 << bits.get());
    if worst > most {
        return Finding::warning(
            "lag",
            format!("history is {} records behind the topic, of which {} in partition {partition}", count(all), count(worst)),
            "if it grows, the batch layer is too slow or stands still: `tidemark status` says what holds it up; more `tidemark batch`, more batch.in_flight, a faster ClickHouse",
        );
    }
    Finding::ok("lag", format!("history is {} records behind the topic", count(all)))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn examined(settings: &[(&str, &str)]) -> Examined {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Examined { brokers: 3, partitions: 1, replicas: 3, in_sync: 3, settings: Some(settings), ..Examined::default() }
    }

    /// One partition whose records are from `start` to `end`, those from `half` on in the younger half of their time.
    fn found(settings: &[(&str, &str)], start: u64, half: u64, end: u64) -> Found {
        let extent = Extent { start: NextOffset::new(start), end: NextOffset::new(end) };
        let half = [(Partition(0), NextOffset::new(half))].into_iter().collect();
        Found { examined: examined(settings), extents: [(Partition(0), extent)].into(), half: Some(half) }
    }

    #[test]
    fn another_topic_or_group_than_the_history_s_is_a_failure() {
        let identity = |topic: &str| TopicIdentity { cluster_id: "c".into(), topic_id: topic.into() };
        let known = Input { cluster_id: "c".into(), topic_id: "t".into(), batch_group: "g".into() };
        let level = |group: &str, found: &TopicIdentity| input("events", group, Some(&known), found).level;
        assert_eq!(level("g", &identity("t")), Level::Ok);
        assert_eq!(level("g", &identity("")), Level::Ok, "brokers before 2.8 tell no id");
        assert_eq!(level("g", &identity("other")), Level::Failure);
        assert_eq!(level("renamed", &identity("t")), Level::Failure);
        assert_eq!(input("events", "g", None, &identity("t")).level, Level::Ok);
    }

    #[test]
    fn positions_that_do_not_outlive_a_weekend_are_warned_of() {
        let of = |minutes| positions(&Examined { positions_kept_minutes: minutes, ..Examined::default() }).level;
        assert_eq!((of(Some(10_080)), of(Some(60)), of(None)), (Level::Ok, Level::Warning, Level::Warning));
    }

    fn at(history: u64) -> Progress {
        Progress { reached: [(Partition(0), NextOffset::new(history))].into(), groups: vec![] }
    }

    #[track_caller]
    fn check(finding: &Finding, level: Level, says: &str) {
        assert!(finding.level == level && finding.found.contains(says), "{finding:?}");
        assert_eq!(finding.advice.is_some(), level != Level::Ok, "{finding:?}");
    }

    #[test]
    fn a_retention_must_be_longer_than_history_may_stand_still() {
        let by = |settings: &[(&str, &str)]| retention(&found(settings, 0, 0, 100), &at(100));
        check(&by(&[("retention.ms", "-1")]), Level::Ok, "for ever");
        check(&by(&[("retention.ms", "604800000")]), Level::Ok, "7 days");
        check(&by(&[("retention.ms", "7200000")]), Level::Warning, "2 hours");
        check(&by(&[("retention.ms", "60000")]), Level::Failure, "60 seconds only");
        check(&by(&[("retention.ms", "-1"), ("retention.bytes", "1073741824")]), Level::Warning, "1.00 GiB");
        check(&by(&[("retention.ms", "-1"), ("cleanup.policy", "compact")]), Level::Failure, "compacted");
    }

    #[test]
    fn what_history_lacks_must_not_be_about_to_go() {
        let week = [("retention.ms", "604800000")];
        check(&retention(&found(&week, 0, 50, 100), &at(50)), Level::Ok, "7 days");
        check(&retention(&found(&week, 0, 50, 100), &at(49)), Level::Failure, "half of their time over");
        check(&retention(&found(&week, 60, 70, 100), &at(50)), Level::Failure, "has forgotten");
        // Nothing has been committed: counting begins with what there is.
        check(&retention(&found(&week, 60, 70, 100), &at(0)), Level::Ok, "7 days");
    }

    #[test]
    fn what_is_acknowledged_must_be_on_more_than_one_broker() {
        let two = examined(&[("min.insync.replicas", "2")]);
        check(&replication(&two, false), Level::Ok, "2 must have it");
        check(&replication(&examined(&[("min.insync.replicas", "1")]), false), Level::Warning, "one broker alone");
        check(&replication(&Examined { in_sync: 1, ..two.clone() }, false), Level::Failure, "nothing can be written");
        check(&replication(&Examined { in_sync: 2, behind: vec![Partition(0)], ..two }, false), Level::Warning, "not up to date");
        let one = Examined { brokers: 1, replicas: 1, in_sync: 1, ..examined(&[]) };
        check(&replication(&one, true), Level::Ok, "1 copy of each record on 1 broker");
        check(&replication(&one, false), Level::Warning, "lost with a disk");
    }

    #[test]
    fn the_largest_event_must_fit_into_the_topic() {
        let size =
            |most: &str, batch: Option<&String>| message_size(&examined(&[("max.message.bytes", most)]), 65_536, batch).expect("known");
        check(&size("1048588", None), Level::Ok, "fit");
        check(&size("500000", None), Level::Warning, "batches");
        check(&size("500000", Some(&"400000".to_owned())), Level::Ok, "fit");
        check(&size("66000", None), Level::Failure, "64.00 KiB");
        assert_eq!(message_size(&examined(&[]), 65_536, None), None);
    }

    #[test]
    fn a_layer_that_is_away_is_seen_by_its_group() {
        let group =
            |state: &str, members| Progress { groups: vec![("g".into(), Group { state: state.into(), members })], ..Progress::default() };
        check(&groups(&group("Stable", 2), true), Level::Ok, "g has 2 members");
        check(&groups(&group("Empty", 0), true), Level::Failure, "nobody is in the group g");
        check(&groups(&group("", 0), false), Level::Warning, "nobody is in the group g");
        check(&groups(&group("PreparingRebalance", 2), true), Level::Warning, "dividing");
    }

    #[test]
    fn lag_counts_from_what_the_topic_still_has() {
        let bits = EpochBits::new(18).expect("valid");
        let lag = |start, end, history| lag(&found(&[], start, 0, end), &at(history), bits);
        check(&lag(0, 100, 90), Level::Ok, "10 records");
        check(&lag(1_000_000, 1_000_010, 0), Level::Ok, "10 records");
        check(&lag(0, 1_000_000, 0), Level::Warning, "1,000,000");
    }

    #[test]
    fn a_topic_that_is_not_there_is_told_from_a_kafka_that_is_not() {
        let none = absent("events", "k:9092", &Error::NoSuchTopic { topic: "events".into() });
        check(&none, Level::Failure, "no topic `events` in the Kafka at k:9092");
        check(
            &absent("events", "k:9092", &Error::Unavailable { broker: "k:9092".into(), reason: "gone".into() }),
            Level::Failure,
            "does not answer",
        );
        check(&topic("events", 4, &examined(&[])), Level::Ok, "kafka.partitions = 4");
        check(&topic("events", 1, &Examined { leaderless: vec![Partition(0)], ..examined(&[]) }), Level::Failure, "partition 0 cannot");
    }
}
