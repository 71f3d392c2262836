//! The user's own proof (⇄): every cell of a range as the topic has it, beside what the HTTP interface answers.
//!
//! The interface is asked first, for each view every cell of the range; then the topic is read up to the cuts of these
//! answers, from where counting began, and each event is counted in the answers whose cut it is below.

use crate::reading::{Way, read};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use tidemark_client::{Client, ClientError};
use tidemark_core::cell::{Cell, Tally, fold_of};
use tidemark_core::cut::Cut;
use tidemark_core::event::Event;
use tidemark_core::generation::{Generation, Rules, RulesError};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_core::question::{Question, RowKey, Rows};
use tidemark_core::view::{Dimension, View};
use tidemark_core::window::{BucketError, Buckets, Step, TimeRange, WindowStart, rfc3339};
use tidemark_history::raw::recall;
use tidemark_history::{History, Marks};
use tidemark_topic::{Consumer, Extent};
use tokio::runtime::Handle;

/// Differences that are listed; all are counted.
const SHOWN: usize = 20;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum RecountError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Log(#[from] tidemark_topic::Error),
    #[error("what the topic no longer has cannot be had: {0}")]
    History(#[from] tidemark_history::Error),
    #[error(transparent)]
    Buckets(#[from] BucketError),
    #[error("generation {before} answered before, and {now} does now: ask again")]
    Switched { before: u32, now: u64 },
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error("partition {partition} of the topic ends at {end}, but the answer's cut is {cut}: it is not the topic that was counted")]
    Short { partition: Partition, end: NextOffset, cut: NextOffset },
    #[error("the answer's cut names partition {0}, which the topic does not have: it is not the topic that was counted")]
    NoSuchPartition(Partition),
}

/// The topic that was counted.
#[derive(Debug)]
pub struct Topic<'a> {
    /// What it holds now.
    pub extents: BTreeMap<Partition, Extent>,
    /// Needed if that is not all that was counted.
    pub past: Option<Past<'a>>,
}

/// What history knows of the topic's past.
#[derive(Debug)]
pub struct Past<'a> {
    pub history: &'a dyn History,
    /// Where counting began, of partitions that did not have their first records any more then.
    pub begun: Marks,
}

/// A cell that is not the same in both.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    pub view: String,
    /// The window's start.
    pub window: String,
    pub values: Vec<String>,
    /// By the recount; `None` if it has no such cell.
    pub counted: Option<Figures>,
    /// By the interface.
    pub answered: Option<Figures>,
}

/// A cell as the interface shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Figures {
    pub count: u64,
    pub amount_count: u64,
    pub sum: Option<String>,
    pub min: Option<String>,
    pub max: Option<String>,
}

impl From<&Cell> for Figures {
    fn from(cell: &Cell) -> Self {
        let text = |of: Option<String>| of.filter(|_| cell.amount_count > 0);
        Self {
            count: cell.count,
            amount_count: cell.amount_count,
            sum: text(Some(cell.sum.to_string())),
            min: text(cell.min().map(|amount| amount.to_string())),
            max: text(cell.max().map(|amount| amount.to_string())),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amounts = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let Self { count, amount_count, sum, min, max } = self;
        write!(f, "count {count}, amounts {amount_count}, sum {}, min {}, max {}", amounts(sum), amounts(min), amounts(max))
    }
}

/// What came of one view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ViewReport {
    pub view: String,
    /// Cells of the range, in either.
    pub cells: u64,
    /// Events in them, by the recount.
    pub events: u64,
    pub different: u64,
    /// What the answer was exact at.
    pub cut: String,
}

/// What came of it. `Display` is what `tidemark recount` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    pub views: Vec<ViewReport>,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Offsets read, from where counting began, by what became of them.
    pub events: u64,
    pub duplicates: u64,
    pub dead_letters: u64,
    pub holes: u64,
    /// What the topic no longer had, and was taken from raw history: `partition:from-to`.
    pub from_history: Vec<String>,
    pub took_ms: u64,
}

impl Report {
    pub fn different(&self) -> u64 {
        self.views.iter().map(|view| view.different).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ViewReport { view, cells, events, different, cut } in &self.views {
            let verdict = if *different == 0 { "all equal".to_owned() } else { format!("{different} DIFFERENT") };
            writeln!(f, "{view}: {cells} cells with {events} events at the cut {cut}: {verdict}")?;
        }
        let text = |figures: &Option<Figures>| figures.as_ref().map_or_else(|| "no such cell".to_owned(), ToString::to_string);
        for Difference { view, window, values, counted, answered } in &self.differences {
            writeln!(f, "  {view} {window} {}: the topic has {}; answered was {}", values.join(" "), text(counted), text(answered))?;
        }
        if self.different() > self.differences.len() as u64 {
            writeln!(f, "  and {} more", self.different() - self.differences.len() as u64)?;
        }
        if !self.from_history.is_empty() {
            writeln!(f, "the topic no longer has {}: taken from raw history", self.from_history.join(", "))?;
        }
        let Self { events, duplicates, dead_letters, holes, .. } = self;
        let seconds = Duration::from_millis(self.took_ms).as_secs_f64();
        write!(
            f,
            "read in {seconds:.1} s: {events} events, {duplicates} duplicates, {dead_letters} dead letters, {holes} offsets without a record"
        )
    }
}

/// A view's cells by the interface, and by the recount so far.
struct Compared<'r> {
    view: &'r View,
    question: Question,
    cut: Cut,
    answered: BTreeMap<RowKey, Figures>,
    counted: Rows,
}

/// Recounts. `consumer` reads all partitions; `progress` gets the offsets to pass in all, and how many more have been. Blocks.
pub fn recount<C: Consumer>(
    api: &Client,
    rules: &Rules,
    range: TimeRange,
    mut consumer: C,
    topic: &Topic<'_>,
    progress: impl Fn(u64, u64),
    runtime: &Handle,
) -> Result<Report, RecountError> {
    let (began, Topic { extents, past }) = (Instant::now(), topic);
    let mut compared = Vec::new();
    for view in rules.views.iter() {
        compared.push(runtime.block_on(asked(api, rules, view, range))?);
    }
    let mut farthest = Cut::default();
    compared.iter().flat_map(|of| of.cut.iter()).for_each(|(partition, position)| farthest.raise(partition, position));
    let mut ways = BTreeMap::new();
    for (partition, to) in farthest.iter() {
        let start = extents.get(&partition).ok_or(RecountError::NoSuchPartition(partition))?.start;
        let begun = past.as_ref().map(|past| past.begun.get(&partition).map_or(NextOffset::ZERO, |mark| mark.position(rules.epoch_bits)));
        // Without a past the topic is whole.
        let from = begun.unwrap_or(start);
        ways.insert(partition, Way::new(rules, from, to));
    }
    let all: u64 = farthest.iter().map(|(partition, to)| to.get() - ways[&partition].at().get().min(to.get())).sum();
    let mut outside = None;
    let mut count = |partition, offset, event: &Event<'_>| {
        for of in compared.iter_mut().filter(|of| of.cut.get(partition).includes(offset)) {
            match of.question.row_of(WindowStart::containing(event.timestamp_ms), |dimension| dimension.value(event)) {
                Ok(Some(row)) => of.counted.entry(row).or_default().add(fold_of(offset), event.order_amount),
                Ok(None) => {}
                Err(error) => outside = Some(error),
            }
        }
    };
    let mut from_history = Vec::new();
    for (&partition, way) in &mut ways {
        let (from, start) = (way.at(), extents[&partition].start);
        let Some(past) = past.as_ref().filter(|_| from < start) else { continue };
        let mut keep = |offset: Offset, event: &Event<'_>| count(partition, offset, event);
        runtime.block_on(recall(past.history, rules, partition, from, start, |record| way.recall(rules, record, &mut keep)))?;
        way.passed(start);
        progress(all, way.at().get() - from.get());
        from_history.push(format!("{partition}:{from}-{}", way.at()));
    }
    read(&mut consumer, &mut ways, &mut count, |passed| progress(all, passed))?;
    if let Some(outside) = outside {
        return Err(outside.into());
    }
    let mut tally = Tally::default();
    ways.values().for_each(|way| tally.merge(&way.tally));
    let mut differences = Vec::new();
    let views = compared.iter().map(|of| of.judged(&mut differences)).collect();
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Tally { events, duplicates, dead_letters, holes } = tally;
    Ok(Report { views, differences, events, duplicates, dead_letters, holes, from_history, took_ms })
}

impl Compared<'_> {
    /// Adds the first differences to those of other views.
    fn judged(&self, differences: &mut Vec<Difference>) -> ViewReport {
        let counted: BTreeMap<&RowKey, Figures> = self.counted.iter().map(|(key, cell)| (key, cell.into())).collect();
        let keys: std::collections::BTreeSet<&RowKey> = counted.keys().copied().chain(self.answered.keys()).collect();
        let mut different = 0;
        for key in &keys {
            let (counted, answered) = (counted.get(key), self.answered.get(*key));
            if counted == answered {
                continue;
            }
            different += 1;
            if differences.len() < SHOWN {
                differences.push(Difference {
                    view: self.view.name().to_owned(),
                    window: rfc3339(key.bucket_ms),
                    values: key.values.iter().map(ToString::to_string).collect(),
                    counted: counted.cloned(),
                    answered: answered.cloned(),
                });
            }
        }
        let events = self.counted.values().map(|cell| cell.count).sum();
        ViewReport { view: self.view.name().to_owned(), cells: keys.len() as u64, events, different, cut: self.cut.to_string() }
    }
}

/// The rules by which a running tidemark counts what it answers.
pub async fn rules_of(api: &Client) -> Result<Rules, RecountError> {
    let status = api.get("/v1/status", &[]).await?;
    let generation = status["generation"].as_u64().and_then(|number| u32::try_from(number).ok());
    let (generation, text) = (generation.ok_or_else(|| api.nonsense("it names no generation"))?, status["rules"].as_str());
    Ok(Rules::read(Generation(generation), text.ok_or_else(|| api.nonsense("it does not say by which rules it counts"))?)?)
}

/// Asks for every cell of a view in the range.
async fn asked<'r>(api: &Client, rules: &Rules, view: &'r View, range: TimeRange) -> Result<Compared<'r>, RecountError> {
    let group_by = view.dimensions().to_vec();
    let names = group_by.iter().map(|dimension| dimension.name()).collect::<Vec<_>>().join(",");
    let mut parameters = vec![("step", "5m"), ("group_by", names.as_str()), ("measures", "count,amount_count,sum,min,max")];
    let (from, to) = (range.from_ms.map(|ms| ms.to_string()), range.to_ms.map(|ms| ms.to_string()));
    parameters.extend(from.as_deref().map(|from| ("from", from)));
    parameters.extend(to.as_deref().map(|to| ("to", to)));
    let answer = api.get("/v1/query", &parameters).await?;
    let generation = answer["generation"].as_u64().ok_or_else(|| api.nonsense("it names no generation"))?;
    if generation != u64::from(rules.generation.0) {
        return Err(RecountError::Switched { before: rules.generation.0, now: generation });
    }
    let positions = answer["cut"].as_object().ok_or_else(|| api.nonsense("it has no cut"))?;
    let position = |(partition, next): (&String, &Value)| Some((Partition(partition.parse().ok()?), NextOffset::new(next.as_u64()?)));
    let cut: Option<Cut> = positions.iter().map(position).collect();
    let rows = answer["rows"].as_array().ok_or_else(|| api.nonsense("it has no rows"))?;
    let answered: Option<BTreeMap<RowKey, Figures>> = rows.iter().map(|row| row_of(row, &group_by)).collect();
    Ok(Compared {
        view,
        question: Question {
            range,
            buckets: Buckets::new(Step::FiveMinutes, None)?,
            filters: BTreeMap::new(),
            group_by: group_by.clone(),
            only_counts: false,
        },
        cut: cut.ok_or_else(|| api.nonsense("its cut cannot be read"))?,
        answered: answered.ok_or_else(|| api.nonsense("a row of it cannot be read"))?,
        counted: Rows::new(),
    })
}

fn row_of(row: &Value, group_by: &[Dimension]) -> Option<(RowKey, Figures)> {
    let window: jiff::Timestamp = row["window"].as_str()?.parse().ok()?;
    let values = group_by.iter().map(|dimension| Some(row[dimension.name()].as_str()?.into())).collect::<Option<_>>()?;
    let amount = |name: &str| row[name].as_str().map(str::to_owned);
    let figures = Figures {
        count: row["count"].as_u64()?,
        amount_count: row["amount_count"].as_u64()?,
        sum: amount("sum"),
        min: amount("min"),
        max: amount("max"),
    };
    Some((RowKey { bucket_ms: window.as_millisecond(), values }, figures))
}
