//! The judge: every record of the topic, read and understood without Tidemark's code, so that any answer can be
//! recomputed at its own cut.
//!
//! It knows the rules that its test data need and no more; on anything else it stops rather than guesses.

use crate::question::{Answer, Question, WINDOW_MS};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
/// 2000-01-01
const EARLIEST_MS: i64 = 946_684_800_000;
const DAY_MS: i64 = 86_400_000;

/// What a record is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Event(Event),
    Duplicate,
    DeadLetter(&'static str),
}

/// What is counted of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub id: Option<String>,
    pub window_ms: i64,
    pub event_type: String,
    pub product_id: String,
    pub user_id: String,
    /// In ten-thousandths.
    pub amount: Option<i128>,
}

/// A group's measures, amounts in ten-thousandths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cell {
    count: u64,
    amount_count: u64,
    sum: i128,
    min: Option<i128>,
    max: Option<i128>,
}

/// A question and what was answered.
pub type Asked<'a> = (&'a Question, &'a Answer);

/// The topic, judged.
#[derive(Clone, Debug)]
pub struct Recount {
    /// Per partition in order of offset.
    pub partitions: BTreeMap<u32, Vec<(u64, Verdict)>>,
    /// Per partition the first offset that is not in the log.
    pub ends: BTreeMap<u32, u64>,
    epoch_bits: u8,
    judges: BTreeMap<u32, Judge>,
    /// Partitions that the topic has got later: an answer from before does not name them.
    added: BTreeSet<u32>,
}

impl Recount {
    /// Of a topic with so many empty partitions.
    pub fn new(partitions: u32, epoch_bits: u8) -> Self {
        let (partitions, ends) = ((0..partitions).map(|id| (id, Vec::new())).collect(), (0..partitions).map(|id| (id, 0)).collect());
        Self { partitions, ends, epoch_bits, judges: BTreeMap::new(), added: BTreeSet::new() }
    }

    /// The topic has this partition too, from here on.
    pub fn add_partition(&mut self, partition: u32) {
        if let Entry::Vacant(vacant) = self.partitions.entry(partition) {
            vacant.insert(Vec::new());
            self.ends.insert(partition, 0);
            self.added.insert(partition);
        }
    }

    /// Takes the next record of a partition.
    pub fn append(&mut self, record: &BorrowedMessage<'_>) {
        let partition = u32::try_from(record.partition()).expect("Kafka counts from 0");
        let offset = u64::try_from(record.offset()).expect("offsets count from 0");
        let at_ms = record.timestamp().to_millis().expect("records have a timestamp");
        let judge = self.judges.entry(partition).or_default();
        let verdict = judge.judge(offset >> self.epoch_bits, record.payload().unwrap_or_default(), at_ms);
        self.partitions.entry(partition).or_default().push((offset, verdict));
        let end = self.ends.entry(partition).or_default();
        *end = (*end).max(offset + 1);
    }

    /// Reads the whole topic, from which nothing has been removed.
    pub fn read(kafka: &str, topic: &str, epoch_bits: u8) -> Self {
        let this = Self::read_what_is_left(kafka, topic, epoch_bits);
        let begins_at_0 = |records: &Vec<(u64, Verdict)>| records.first().is_none_or(|(offset, _)| *offset == 0);
        assert!(this.partitions.values().all(begins_at_0), "something has been removed from the topic");
        this
    }

    /// Reads the topic as if nothing had ever stood before what is there.
    pub fn read_what_is_left(kafka: &str, topic: &str, epoch_bits: u8) -> Self {
        let mut this = Self::new(0, epoch_bits);
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("group.id", "recount")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .create()
            .expect("a Kafka consumer");
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("the topic's partitions");
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), DEADLINE).expect("the partition's extent");
            let id = u32::try_from(partition.id()).expect("Kafka counts from 0");
            this.ends.insert(id, u64::try_from(end).expect("an end is not negative"));
            this.partitions.insert(id, Vec::new());
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a partition to read");
        }
        consumer.assign(&list).expect("the partitions are free to read");
        let began = Instant::now();
        while this.partitions.iter().any(|(partition, records)| records.last().map_or(0, |(offset, _)| offset + 1) < this.ends[partition]) {
            assert!(began.elapsed() < DEADLINE, "the topic cannot be read to its end: {:?}", this.ends);
            if let Some(record) = consumer.poll(Duration::from_millis(100)) {
                this.append(&record.expect("reading the topic"));
            }
        }
        this
    }

    fn verdicts(&self) -> impl Iterator<Item = (u32, u64, &Verdict)> {
        self.partitions.iter().flat_map(|(partition, records)| records.iter().map(|(offset, verdict)| (*partition, *offset, verdict)))
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.verdicts().filter_map(|(.., verdict)| if let Verdict::Event(event) = verdict { Some(event) } else { None })
    }

    /// Partition, offset and reason of what is not counted, duplicates included.
    pub fn uncounted(&self) -> BTreeMap<(u32, u64), &'static str> {
        let reason = |verdict: &Verdict| match verdict {
            Verdict::Event(_) => None,
            Verdict::Duplicate => Some("duplicate"),
            Verdict::DeadLetter(reason) => Some(*reason),
        };
        self.verdicts().filter_map(|(partition, offset, verdict)| Some(((partition, offset), reason(verdict)?))).collect()
    }

    /// Says what is wrong with an answer, if anything is: every row is recomputed from the records below its cut.
    pub fn check(&self, question: &Question, answer: &Answer) -> Result<(), String> {
        self.check_positions(answer)?;
        check_rows(question, answer, &self.rows(&[(question, answer)])[0])
    }

    fn check_positions(&self, answer: &Answer) -> Result<(), String> {
        for (partition, end) in &self.ends {
            let (cut, mark) = (answer.cut.get(partition), answer.mark.get(partition));
            let (Some(&cut), Some(&mark)) = (cut, mark) else {
                if self.added.contains(partition) {
                    continue;
                }
                return Err(format!("partition {partition} is missing in {:?}", answer.cut));
            };
            if cut > *end || mark > cut || mark % (1 << self.epoch_bits) != 0 {
                return Err(format!("partition {partition}: mark {mark}, cut {cut}, and the log ends at {end}"));
            }
        }
        Ok(())
    }

    /// Ends the test unless each of these answers is right.
    pub fn check_all<'a>(&self, taken: impl IntoIterator<Item = &'a (Question, Answer)>) {
        let taken: Vec<Asked<'_>> = taken.into_iter().map(|(question, answer)| (question, answer)).collect();
        let wrong: Vec<String> = self.wrong(&taken).into_iter().map(|(_, what)| what).collect();
        assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), taken.len(), wrong[..wrong.len().min(5)].join("\n"));
    }

    /// Which of these answers are wrong, and how.
    pub fn wrong(&self, taken: &[Asked<'_>]) -> Vec<(usize, String)> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let part = taken.len().div_ceil(cores).max(1);
        let judge = |first: usize, part: &[Asked<'_>]| {
            let check = |(n, (&(question, answer), wanted)): (usize, (&Asked<'_>, Wanted))| {
                let checked = self.check_positions(answer).and_then(|()| check_rows(question, answer, &wanted));
                checked.err().map(|what| (first + n, format!("{question:?} at {:?}: {what}", answer.cut)))
            };
            part.iter().zip(self.rows(part)).enumerate().filter_map(check).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let judge = &judge;
            let judges: Vec<_> = taken.chunks(part).enumerate().map(|(n, of)| scope.spawn(move || judge(n * part, of))).collect();
            judges.into_iter().flat_map(|judge| judge.join().expect("a judge comes to an end")).collect()
        })
    }

    /// What each of these answers should have: one pass over each partition, in order of the answers' cuts there.
    fn rows(&self, asked: &[Asked<'_>]) -> Vec<Wanted> {
        let mut sums: Vec<Sums<'_>> = asked.iter().map(|_| Sums::new()).collect();
        for (partition, records) in &self.partitions {
            let cut = |n: usize| asked[n].1.cut.get(partition).copied().unwrap_or(0);
            let mut order: Vec<usize> = (0..asked.len()).collect();
            order.sort_by_key(|n| cut(*n));
            let (mut counted, mut records) = (Counted::new(), records.iter().peekable());
            for n in order {
                while let Some((_, verdict)) = records.next_if(|(offset, _)| *offset < cut(n)) {
                    if let Verdict::Event(event) = verdict {
                        counted.entry(event.window_ms).or_default().entry(event.values()).or_default().add(event.amount);
                    }
                }
                add_up(asked[n].0, &counted, &mut sums[n]);
            }
        }
        asked.iter().zip(sums).map(|((question, _), sums)| ordered(question, sums)).collect()
    }
}

/// What is counted so far of a partition: per window the cells by the values of [`DIMENSIONS`].
type Counted<'a> = BTreeMap<i64, HashMap<[&'a str; 3], Cell>>;
/// Cells by bucket and the values that a question groups by, in its order; what it does not group by is empty.
type Sums<'a> = BTreeMap<(i64, [&'a str; 3]), Cell>;

const DIMENSIONS: [&str; 3] = ["event_type", "product_id", "user_id"];

fn place(dimension: &str) -> usize {
    DIMENSIONS.iter().position(|name| *name == dimension).unwrap_or_else(|| panic!("this recount knows no dimension {dimension}"))
}

fn add_up<'a>(question: &Question, counted: &Counted<'a>, sums: &mut Sums<'a>) {
    let group_by: Vec<usize> = question.group_by.iter().map(|name| place(name)).collect();
    let mut allowed: [Vec<&str>; 3] = Default::default();
    question.filters.iter().for_each(|(name, value)| allowed[place(name)].push(value));
    for (window_ms, cells) in counted.range(question.from_ms.unwrap_or(i64::MIN)..question.to_ms.unwrap_or(i64::MAX)) {
        let bucket = question.bucket(*window_ms);
        for (values, cell) in cells {
            if values.iter().zip(&allowed).all(|(value, allowed)| allowed.is_empty() || allowed.contains(value)) {
                let mut grouped = [""; 3];
                group_by.iter().zip(&mut grouped).for_each(|(of, grouped)| *grouped = values[*of]);
                sums.entry((bucket, grouped)).or_default().merge(cell);
            }
        }
    }
}

/// As an answer has them.
fn ordered(question: &Question, sums: Sums<'_>) -> Wanted {
    let named = |values: [&str; 3]| values[..question.group_by.len()].iter().map(|&value| value.to_owned()).collect();
    let mut rows: Vec<(Key, Cell)> = sums.into_iter().map(|((bucket, values), cell)| ((bucket, named(values)), cell)).collect();
    if question.step == "total" && question.group_by.is_empty() && rows.is_empty() {
        rows.push(((0, Vec::new()), Cell::default()));
    }
    if let Some(top) = question.top {
        rows.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.cmp(b)));
        rows.truncate(top);
    }
    rows
}

fn check_rows(question: &Question, answer: &Answer, wanted: &[(Key, Cell)]) -> Result<(), String> {
    let rows = answer.rows();
    let found = rows.iter().map(|row| key(question, row)).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<&Key> = wanted.iter().map(|(key, _)| key).collect();
    if found.iter().collect::<Vec<_>>() != keys {
        let missing: Vec<&&Key> = keys.iter().filter(|key| !found.contains(key)).take(3).collect();
        let added: Vec<&Key> = found.iter().filter(|key| !keys.contains(key)).take(3).collect();
        let (found, keys) = (found.len(), keys.len());
        return Err(format!("{found} rows, recounted {keys}; missing {missing:?}, too many {added:?} (or another order)"));
    }
    wanted.iter().zip(&rows).try_for_each(|((key, cell), row)| cell.check(row).map_err(|what| format!("{key:?}: {what}")))
}

/// Bucket and values.
type Key = (i64, Vec<String>);
/// The rows that an answer should have, in its order.
type Wanted = Vec<(Key, Cell)>;

fn key(question: &Question, row: &Value) -> Result<Key, String> {
    let bucket = match row["window"].as_str() {
        Some(window) => window.parse::<jiff::Timestamp>().map_err(|error| format!("{window}: {error}"))?.as_millisecond(),
        None => 0,
    };
    let value = |name: &&str| row[*name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name} in {row}"));
    Ok((bucket, question.group_by.iter().map(value).collect::<Result<_, _>>()?))
}

impl Event {
    fn values(&self) -> [&str; 3] {
        [&self.event_type, &self.product_id, &self.user_id]
    }
}

impl Cell {
    fn add(&mut self, amount: Option<i128>) {
        self.count += 1;
        let Some(amount) = amount else { return };
        self.amount_count += 1;
        self.sum += amount;
        self.min = Some(self.min.map_or(amount, |min| min.min(amount)));
        self.max = Some(self.max.map_or(amount, |max| max.max(amount)));
    }

    fn merge(&mut self, other: &Self) {
        let one = |pick: fn(i128, i128) -> i128, a: Option<i128>, b: Option<i128>| a.zip(b).map(|(a, b)| pick(a, b)).or(a).or(b);
        self.count += other.count;
        self.amount_count += other.amount_count;
        self.sum += other.sum;
        self.min = one(i128::min, self.min, other.min);
        self.max = one(i128::max, self.max, other.max);
    }

    fn check(&self, row: &Value) -> Result<(), String> {
        let some = |amount: i128| (self.amount_count > 0).then(|| decimal(amount));
        let same = row["count"].as_u64() == Some(self.count)
            && row["amount_count"].as_u64() == Some(self.amount_count)
            && row["sum"].as_str() == some(self.sum).as_deref()
            && row["min"].as_str() == self.min.map(decimal).as_deref()
            && row["max"].as_str() == self.max.map(decimal).as_deref()
            && self.has_average(&row["avg"]);
        if same { Ok(()) } else { Err(format!("{row}, recounted {self:?}")) }
    }

    /// To half of the sixth decimal: |avg · n − sum| ≤ n / 2,000,000.
    fn has_average(&self, avg: &Value) -> bool {
        let Some(avg) = avg.as_str() else { return avg.is_null() && self.amount_count == 0 };
        let Some(millionths) = scaled(avg, 6) else { return false };
        let n = i128::from(self.amount_count);
        n > 0 && (2 * (millionths * n - self.sum * 100)).abs() <= n
    }
}

/// `-12.3400`
fn decimal(amount: i128) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    format!("{sign}{}.{:04}", amount.abs() / 10_000, amount.abs() % 10_000)
}

/// A decimal text times 10^`places`; `None` if it is none, or has more decimals.
fn scaled(text: &str, places: usize) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    if decimals.len() > places {
        return None;
    }
    format!("{whole}{decimals:0<places$}").parse::<i128>().ok().map(|n| sign * n)
}

/// Decides about one partition's records, in order.
#[derive(Clone, Debug, Default)]
struct Judge {
    /// The last epoch in which a valid record carried an id.
    seen: HashMap<String, u64>,
}

impl Judge {
    fn judge(&mut self, epoch: u64, payload: &[u8], record_ms: i64) -> Verdict {
        let event = match understand(payload, record_ms) {
            Ok(event) => event,
            Err(reason) => return Verdict::DeadLetter(reason),
        };
        let last = event.id.clone().and_then(|id| self.seen.insert(id, epoch));
        if last.is_some_and(|last| last + 1 >= epoch) { Verdict::Duplicate } else { Verdict::Event(event) }
    }
}

/// The rules, as far as the test data break them.
pub fn understand(payload: &[u8], record_ms: i64) -> Result<Event, &'static str> {
    let text = std::str::from_utf8(payload).map_err(|_| "not_utf8")?;
    let json: Value = serde_json::from_str(text)
        .map_err(|error| if error.to_string().starts_with("recursion limit") { "too_deep" } else { "not_json" })?;
    let fields = json.as_object().ok_or("not_an_object")?;
    let event_type =
        fields.get("event_type").ok_or("missing_event_type")?.as_str().filter(|text| !text.is_empty()).ok_or("bad_event_type")?;
    let timestamp_ms = match fields.get("timestamp").ok_or("missing_timestamp")? {
        Value::String(text) => text.parse::<jiff::Timestamp>().map_err(|_| "bad_timestamp")?.as_millisecond(),
        other => other.as_i64().ok_or("bad_timestamp")?,
    };
    let string = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let amount = match fields.get("order_amount") {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(ten_thousandths(number)),
        Some(_) => return Err("bad_order_amount"),
    };
    if timestamp_ms < EARLIEST_MS {
        return Err("too_old");
    }
    if timestamp_ms > record_ms + DAY_MS {
        return Err("too_far_ahead");
    }
    Ok(Event {
        id: string("event_id"),
        window_ms: timestamp_ms - timestamp_ms.rem_euclid(WINDOW_MS),
        event_type: event_type.to_owned(),
        product_id: string("product_id").unwrap_or_default(),
        user_id: string("user_id").unwrap_or_default(),
        amount,
    })
}

/// Exact for what the test data hold: a float's shortest text is what was written.
fn ten_thousandths(number: &serde_json::Number) -> i128 {
    let text = number.as_i64().map_or_else(|| number.as_f64().map(|n| n.to_string()).unwrap_or_default(), |n| n.to_string());
    scaled(&text, 4).unwrap_or_else(|| panic!("this recount does not round {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(lines: &[(u64, &str)]) -> String {
        let mut judge = Judge::default();
        let shown = lines.iter().map(|(epoch, line)| match judge.judge(*epoch, line.as_bytes(), 1_795_564_800_000) {
            Verdict::Event(event) => format!("{}@{}={:?}", event.event_type, event.window_ms / WINDOW_MS, event.amount),
            Verdict::Duplicate => "duplicate".to_owned(),
            Verdict::DeadLetter(reason) => reason.to_owned(),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_id_is_counted_once_within_two_epochs_and_rejects_do_not_carry_ids() {
        let event = r#"{"event_id":"1","event_type":"a","timestamp":"2013-01-01T10:16:00Z","order_amount":-12e-1}"#;
        let reject = r#"{"event_id":"1","event_type":"a","timestamp":"yesterday"}"#;
        let counted = "a@4523451=Some(-12000)";
        assert_eq!(
            verdicts(&[(0, reject), (0, event), (1, event), (2, event), (4, event)]),
            format!("bad_timestamp {counted} duplicate duplicate {counted}")
        );
    }

    #[test]
    fn an_average_is_right_to_half_of_its_last_digit() {
        let mut cell = Cell::default();
        [10_000, 10_000, 0].into_iter().for_each(|amount| cell.add(Some(amount)));
        let check = |text: &str| cell.has_average(&Value::from(text));
        assert!(check("0.666667") && !check("0.666666") && !check("0.666668") && !Cell::default().has_average(&Value::from("0.000000")));
    }
}
