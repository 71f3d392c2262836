//! ClickHouse and the history in it: looked at by [`look`], judged by the rest.

use super::disk;
use super::finding::{Finding, count, span};
use super::topic::Progress;
use crate::config::Config;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::generation::Rules;
use tidemark_core::offset::Partition;
use tidemark_history::audit::Damage;
use tidemark_history::clickhouse::{Archive, Examined, NEEDED, Pace, Server, Tables};
use tidemark_history::declared::{differences, shapes};
use tidemark_history::generations::{Generations, Input};
use tidemark_history::{Error, History as _, Marks};
use tidemark_topic::now_ms;

/// The first version with all that is used, among those this is tested with.
const OLDEST: u32 = 25;
/// An epoch that could be closed is, within seconds.
const CLOSED_WITHIN_MS: i64 = 600_000;
/// Differences that are shown; the rest is counted.
const MOST_SHOWN: usize = 5;

/// What can be seen of the servers and of the history.
#[derive(Debug)]
pub struct Found {
    /// By address.
    pub servers: Vec<(String, Result<Examined, Error>)>,
    /// `None` if there is no history yet.
    pub history: Option<Result<Standing, Error>>,
}

/// A history, and how it gets on.
#[derive(Debug)]
pub struct Standing {
    pub generations: Generations,
    pub pace: Pace,
    /// Of the generation that answers, as are the rest.
    pub marks: Marks,
    pub repairing: Vec<(Partition, Epoch)>,
    /// What audits have found.
    pub damage: Arc<Damage>,
    /// Where its records come from; `None` of a history that no version has opened yet that keeps it.
    pub input: Option<Input>,
}

impl Found {
    /// Servers that answered.
    pub fn answered(&self) -> impl Iterator<Item = (&String, &Examined)> {
        self.servers.iter().filter_map(|(at, found)| Some((at, found.as_ref().ok()?)))
    }

    pub fn standing(&self) -> Option<&Standing> {
        self.history.as_ref()?.as_ref().ok()
    }
}

/// Asks each server, and then those that answered for the history, for no longer than `patience` each time.
pub async fn look(config: &Config, url: &str, patience: Duration) -> Found {
    let server = config.clickhouse.server(url);
    let servers = server.examine(patience).await;
    let has_history = |found: &Result<Examined, Error>| found.as_ref().is_ok_and(|found| found.tables.contains_key("generation_states"));
    let urls: Vec<String> =
        server.urls.iter().zip(&servers).filter(|(_, (_, found))| has_history(found)).map(|(url, _)| url.clone()).collect();
    if urls.is_empty() {
        return Found { servers, history: None };
    }
    let archive = Archive::existing(&Server { urls, ..server }, &config.kafka.topic);
    let late = |_| Error::Unavailable { url: config.clickhouse.place(), reason: format!("no answer within {} s", patience.as_secs()) };
    let history = tokio::time::timeout(patience, standing(&archive)).await.map_err(late).flatten();
    Found { servers, history: history.transpose() }
}

async fn standing(archive: &Archive) -> Result<Option<Standing>, Error> {
    let Some(generations) = archive.generations().await? else { return Ok(None) };
    let history = archive.existing_history(Arc::clone(generations.live()));
    let (pace, marks, repairing) = (archive.pace(generations.live()).await?, history.marks().await?, history.repairing().await?);
    // There may be no such tables yet, which is no failure.
    let damage = history.damage().await.unwrap_or_default();
    let input = archive.input(generations.live().raw()).await.unwrap_or_default();
    Ok(Some(Standing { generations, pace, marks, repairing, damage, input }))
}

/// Whether the servers answer, and what they are.
pub fn servers(found: &Found) -> Finding {
    let check = "clickhouse";
    let silent: Vec<String> = found.servers.iter().filter_map(|(_, found)| Some(found.as_ref().err()?.to_string())).collect();
    let versions: Vec<String> = found.answered().map(|(at, found)| format!("{at} is version {}", found.version)).collect();
    let advice = "look at the server and its log, at clickhouse.url, and at clickhouse.user and password";
    if versions.is_empty() {
        return Finding::failure(
            check,
            silent.join("; "),
            format!("{advice}. Until it answers, history stands still and questions about it get a 503; what is sent is kept by the topic"),
        );
    }
    if !silent.is_empty() {
        return Finding::warning(check, format!("{}; {}", versions.join(", "), silent.join("; ")), format!("the others go on; {advice}"));
    }
    let is_old =
        |found: &Examined| found.version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < OLDEST);
    if found.answered().any(|(_, found)| is_old(found)) {
        return Finding::warning(check, versions.join(", "), format!("this is tested with versions from {OLDEST} on: take a newer one"));
    }
    Finding::ok(check, versions.join(", "))
}

/// Whether our inserts may say what they need, and what happens when the power goes. `own`: the engine that `up` brings along.
pub fn settings(found: &Found, tables: &Tables, own: bool) -> Option<Finding> {
    let check = "clickhouse-settings";
    found.answered().next()?;
    let fixed = found.answered().flat_map(|(at, found)| found.settings.iter().map(move |setting| (at, setting)));
    let fixed =
        fixed.filter(|(_, setting)| setting.fixed && NEEDED.iter().any(|(name, value)| *name == setting.name && *value != setting.value));
    let fixed: Vec<String> = fixed.map(|(at, setting)| format!("{at} fixes {} at {}", setting.name, setting.value)).collect();
    if !fixed.is_empty() {
        let needed: Vec<String> = NEEDED.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        return Some(Finding::failure(
            check,
            format!("{}: inserts would be refused, or count twice when they are sent again", fixed.join(", ")),
            format!("let this user set {} (no readonly profile, no such constraint)", needed.join(", ")),
        ));
    }
    let syncs = found.answered().all(|(_, found)| found.syncs);
    Some(match (syncs, tables) {
        (true, _) => Finding::ok(check, "inserts may say what they need; what is acknowledged is on disk at once"),
        (false, Tables::Replicated { .. }) => {
            Finding::ok(check, "inserts may say what they need; what is acknowledged is on most replicas")
        }
        (false, Tables::Own) if own => Finding::ok(check, "inserts may say what they need; a loss of power may take the last seconds"),
        (false, Tables::Own) => Finding::warning(
            check,
            "what is acknowledged reaches the disk some seconds later: with one server, a loss of power may take closed epochs",
            "clickhouse.replicated, or fsync_after_insert = 1 and fsync_part_directory = 1 among the server's merge_tree settings (a quarter slower)",
        ),
    })
}

/// Whether each server has the tables as they are declared.
pub fn tables(found: &Found, tables: &Tables) -> Option<Finding> {
    let check = "tables";
    found.answered().next()?;
    let standing = match &found.history {
        None => return Some(Finding::ok(check, "there is no history yet: the first layer that starts makes the tables")),
        Some(Err(error)) => {
            return Some(Finding::failure(
                check,
                format!("the history cannot be read: {error}"),
                "look at clickhouse.database and kafka.topic: is it this deployment's history?",
            ));
        }
        Some(Ok(standing)) => standing,
    };
    let declared: BTreeMap<_, _> = standing.generations.standing().flat_map(|known| shapes(&known.rules, tables)).collect();
    let of = |(at, found): (&String, &Examined)| -> Vec<String> {
        differences(&declared, &found.tables).into_iter().map(|what| format!("{at}: {what}")).collect()
    };
    let differing: Vec<String> = found.answered().flat_map(of).collect();
    if differing.is_empty() {
        return Some(Finding::ok(check, format!("{} tables and fillers are as they are declared", declared.len())));
    }
    let mut shown = differing[..differing.len().min(MOST_SHOWN)].join("\n");
    if differing.len() > MOST_SHOWN {
        shown += &format!("\nand {} more", differing.len() - MOST_SHOWN);
    }
    Some(Finding::failure(
        check,
        shown,
        "somebody has changed them, or a later version has: put them back (what is missing is made when a layer starts), or `tidemark apply` makes new ones and fills them",
    ))
}

/// Whether the configuration counts as the history does.
pub fn rules(standing: &Standing, ours: &Rules) -> Finding {
    let check = "rules";
    let (generations, live) = (&standing.generations, standing.generations.live());
    match generations.by_rules(&ours.text()) {
        None => Finding::failure(
            check,
            format!("the configuration counts by other rules than the history\nhistory: {}\nconfig:  {}", live.text(), ours.text()),
            "no process starts so: restore the settings, or `tidemark plan` says what the change needs and `tidemark apply` does it",
        ),
        Some(known) if known.rules.generation != live.generation => Finding::warning(
            check,
            format!("the configuration has the rules of generation {}, but generation {} answers", known.rules.generation, live.generation),
            "give every process the configuration of the generation that answers; `tidemark replay status` shows the rules of each",
        ),
        Some(_) => Finding::ok(check, format!("generation {} answers, and counts as the configuration says", live.generation)),
    }
}

/// Room for history, on each of the servers' disks.
pub fn disks(found: &Found) -> Vec<Finding> {
    let grows = found.standing().and_then(|standing| growth(&standing.pace));
    let of = |(at, found): (&String, &Examined)| -> Vec<Finding> {
        let each = found.disks.iter().filter(|disk| disk.total > 0);
        each.map(|at_disk| disk::judge("clickhouse-disk", &format!("disk `{}` of {at}", at_disk.name), at_disk.free, at_disk.total, grows))
            .collect()
    };
    found.answered().flat_map(of).collect()
}

/// Bytes a day, by the events of the last one; `None` before there is an epoch to go by.
fn growth(pace: &Pace) -> Option<u64> {
    let bytes = u128::from(pace.bytes) * u128::from(pace.events_of_a_day) / u128::from(pace.events.max(1));
    (pace.events > 0).then(|| u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Whether epochs are closed: both layers have agreed on them.
pub fn reconciliation(standing: &Standing, progress: Option<&Progress>, bits: EpochBits) -> Finding {
    let check = "reconciliation";
    let Standing { pace, marks, repairing, damage, .. } = standing;
    if let Some(of) = damage.damaged.first() {
        return Finding::failure(
            check,
            format!(
                "{} closed epochs are damaged, and not answered from: of epoch {} of partition {}, {}",
                damage.damaged.len(),
                of.epoch,
                of.partition,
                of.finding.what
            ),
            "a speed layer repairs what it can, if audit.repair is on; `tidemark audit --repair` does it now, and says of what it cannot why",
        );
    }
    if let Some((partition, epoch)) = repairing.first() {
        return Finding::warning(
            check,
            format!("history differed in epoch {epoch} of partition {partition}, and is being written again ({} such)", repairing.len()),
            "answers stay exact meanwhile; keep the log of the speed layer, which says what differed. Somebody may have written to the tables",
        );
    }
    let since = now_ms() - pace.last_closed_ms;
    let last =
        if pace.closed == 0 { "no epoch has been closed yet".to_owned() } else { format!("the last epoch was closed {} ago", span(since)) };
    let waiting: u64 = progress.map_or(0, |progress| {
        let full = progress.reached.iter().map(|(partition, at)| {
            let begins = marks.get(partition).map(|mark| mark.position(bits)).unwrap_or_default();
            at.since(begins) >> bits.get()
        });
        full.sum()
    });
    if waiting > 0 && (pace.closed == 0 || since > CLOSED_WITHIN_MS) {
        return Finding::warning(
            check,
            format!("{last}, and {} could be: history has all of them", count(waiting)),
            "the speed layer closes them: it does not run, is behind, or is not answered. Memory grows until it does; `tidemark status` and its log say what holds it up",
        );
    }
    let events = if pace.closed == 0 {
        String::new()
    } else {
        format!("; both layers agree on {} events in {} epochs", count(pace.events), count(pace.closed))
    };
    Finding::ok(check, format!("{last}{events}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use tidemark_core::epoch::Mark;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Generation;
    use tidemark_core::offset::NextOffset;
    use tidemark_core::view::Views;
    use tidemark_history::clickhouse::Setting;

    const OWN: Tables = Tables::Own;

    fn bits() -> EpochBits {
        EpochBits::new(8).expect("valid")
    }

    fn rules(dedup: bool) -> Rules {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        Rules { generation: Generation(1), widens: None, epoch_bits: bits(), views, limits: Limits::default(), dedup }
    }

    fn standing() -> Standing {
        let generations = Generations::new([Arc::new(rules(true))], []).expect("there is one");
        let pace = Pace { closed: 1, last_closed_ms: now_ms(), events: 100, events_of_a_day: 50, bytes: 2000 };
        Standing {
            generations,
            pace,
            marks: BTreeMap::from([(Partition(0), Mark::at(Epoch(1)))]),
            repairing: vec![],
            damage: Arc::default(),
            input: None,
        }
    }

    fn server(version: &str) -> (String, Result<Examined, Error>) {
        ("c:8123".into(), Ok(Examined { version: version.into(), tables: shapes(&rules(true), &OWN), ..Examined::default() }))
    }

    fn silent() -> (String, Result<Examined, Error>) {
        ("d:8123".into(), Err(Error::Unavailable { url: "http://d:8123".into(), reason: "refused".into() }))
    }

    fn found(servers: Vec<(String, Result<Examined, Error>)>) -> Found {
        Found { servers, history: Some(Ok(standing())) }
    }

    #[track_caller]
    fn check(finding: &Finding, level: Level, says: &str) {
        assert!(finding.level == level && finding.found.contains(says), "{finding:?}");
    }

    #[test]
    fn one_of_several_servers_may_be_away() {
        check(&servers(&found(vec![server("26.7.3")])), Level::Ok, "c:8123 is version 26.7.3");
        check(&servers(&found(vec![server("24.3.1")])), Level::Warning, "24.3.1");
        check(&servers(&found(vec![server("26.7.3"), silent()])), Level::Warning, "did not answer");
        check(&servers(&found(vec![silent()])), Level::Failure, "http://d:8123 did not answer: refused");
    }

    #[test]
    fn a_setting_that_no_insert_may_change_is_a_failure() {
        let with = |fixed| {
            let setting = Setting { name: "async_insert".into(), value: "1".into(), fixed };
            let server = Examined { version: "26.7".into(), settings: vec![setting], ..Examined::default() };
            settings(&found(vec![("c".into(), Ok(server))]), &OWN, true).expect("a server answered")
        };
        check(&with(true), Level::Failure, "c fixes async_insert at 1");
        check(&with(false), Level::Ok, "may say what they need");
        check(&settings(&found(vec![server("26.7")]), &OWN, false).expect("a server answered"), Level::Warning, "loss of power");
        assert_eq!(settings(&found(vec![silent()]), &OWN, false), None);
    }

    #[test]
    fn tables_are_held_against_what_is_declared() {
        check(&tables(&found(vec![server("26.7")]), &OWN).expect("a server answered"), Level::Ok, "15 tables");
        let mut lacking = server("26.7");
        lacking.1.as_mut().expect("it answers").tables.remove("by_type_1d_g1_filler");
        check(
            &tables(&found(vec![lacking]), &OWN).expect("a server answered"),
            Level::Failure,
            "c:8123: `by_type_1d_g1_filler` is missing",
        );
        let none = Found { history: None, ..found(vec![server("26.7")]) };
        check(&tables(&none, &OWN).expect("a server answered"), Level::Ok, "no history yet");
    }

    #[test]
    fn the_configuration_must_count_as_the_history_does() {
        check(&super::rules(&standing(), &rules(true)), Level::Ok, "generation 1");
        check(&super::rules(&standing(), &rules(false)), Level::Failure, "dedup=false");
    }

    #[test]
    fn epochs_that_could_be_closed_must_not_wait_long() {
        let at = |history| Progress { reached: BTreeMap::from([(Partition(0), NextOffset::new(history))]), groups: vec![] };
        let old = || Standing { pace: Pace { last_closed_ms: now_ms() - 3_600_000, ..standing().pace }, ..standing() };
        check(&reconciliation(&standing(), Some(&at(512)), bits()), Level::Ok, "100 events in 1 epochs");
        check(&reconciliation(&old(), Some(&at(511)), bits()), Level::Ok, "60 minutes ago");
        check(&reconciliation(&old(), Some(&at(512)), bits()), Level::Warning, "1 could be");
        let repairing = Standing { repairing: vec![(Partition(3), Epoch(7))], ..standing() };
        check(&reconciliation(&repairing, None, bits()), Level::Warning, "epoch 7 of partition 3");
    }

    #[test]
    fn growth_goes_by_the_events_of_a_day() {
        assert_eq!((growth(&standing().pace), growth(&Pace::default())), (Some(1000), None));
    }
}
