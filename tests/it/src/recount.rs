//! The judge: every record of the topic, read and understood without Tidemark's code, so that any answer can be
//! recomputed at its own cut.
//!
//! It knows the rules that its test data need and no more; on anything else it stops rather than guesses.

use crate::question::{Answer, Question, WINDOW_MS};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
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

/// The topic, judged.
#[derive(Clone, Debug)]
pub struct Recount {
    /// Per partition in order of offset.
    pub partitions: BTreeMap<u32, Vec<(u64, Verdict)>>,
    /// Per partition the first offset that is not in the log.
    pub ends: BTreeMap<u32, u64>,
    epoch_bits: u8,
    /// Partitions and places of the events in a window, so that a question about some windows need not look at all.
    windows: BTreeMap<i64, Vec<(u32, usize)>>,
}

impl Recount {
    /// Reads the whole topic, from which nothing has been removed.
    pub fn read(kafka: &str, topic: &str, epoch_bits: u8) -> Self {
        let this = Self::read_what_is_left(kafka, topic, epoch_bits);
        let begins_at_0 = |records: &Vec<(u64, Verdict)>| records.first().is_none_or(|(offset, _)| *offset == 0);
        assert!(this.partitions.values().all(begins_at_0), "something has been removed from the topic");
        this
    }

    /// Reads the topic as if nothing had ever stood before what is there.
    pub fn read_what_is_left(kafka: &str, topic: &str, epoch_bits: u8) -> Self {
        let mut this = Self { partitions: BTreeMap::new(), ends: BTreeMap::new(), epoch_bits, windows: BTreeMap::new() };
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
        this.take_all(&consumer);
        for (&partition, records) in &this.partitions {
            for (at, (_, verdict)) in records.iter().enumerate() {
                if let Verdict::Event(event) = verdict {
                    this.windows.entry(event.window_ms).or_default().push((partition, at));
                }
            }
        }
        this
    }

    fn take_all(&mut self, consumer: &BaseConsumer) {
        let began = Instant::now();
        let mut judges: BTreeMap<u32, Judge> = BTreeMap::new();
        while self.partitions.iter().any(|(partition, records)| records.last().map_or(0, |(offset, _)| offset + 1) < self.ends[partition]) {
            assert!(began.elapsed() < DEADLINE, "the topic cannot be read to its end: {:?}", self.ends);
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
            let record = record.expect("reading the topic");
            let partition = u32::try_from(record.partition()).expect("Kafka counts from 0");
            let offset = u64::try_from(record.offset()).expect("offsets count from 0");
            let at_ms = record.timestamp().to_millis().expect("records have a timestamp");
            let verdict =
                judges.entry(partition).or_default().judge(offset >> self.epoch_bits, record.payload().unwrap_or_default(), at_ms);
            self.partitions.entry(partition).or_default().push((offset, verdict));
        }
    }

    fn verdicts(&self) -> impl Iterator<Item = (u32, u64, &Verdict)> {
        self.partitions.iter().flat_map(|(partition, records)| records.iter().map(|(offset, verdict)| (*partition, *offset, verdict)))
    }

    /// The events of the windows that a question is about, with their partitions and offsets.
    fn events_of<'a>(&'a self, question: &Question) -> impl Iterator<Item = (u32, u64, &'a Event)> {
        let windows = self.windows.range(question.from_ms.unwrap_or(i64::MIN)..question.to_ms.unwrap_or(i64::MAX));
        windows.flat_map(|(_, places)| places).filter_map(|&(partition, at)| match &self.partitions[&partition][at] {
            (offset, Verdict::Event(event)) => Some((partition, *offset, event)),
            _ => None,
        })
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
        for (partition, end) in &self.ends {
            let (cut, mark) = (answer.cut.get(partition), answer.mark.get(partition));
            let (Some(&cut), Some(&mark)) = (cut, mark) else {
                return Err(format!("partition {partition} is missing in {:?}", answer.cut));
            };
            if cut > *end || mark > cut || mark % (1 << self.epoch_bits) != 0 {
                return Err(format!("partition {partition}: mark {mark}, cut {cut}, and the log ends at {end}"));
            }
        }
        let wanted = self.rows(question, answer);
        let rows = answer.rows();
        let found = rows.iter().map(|row| key(question, row)).collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<&Key> = wanted.iter().map(|(key, _)| key).collect();
        if found.iter().collect::<Vec<_>>() != keys {
            let missing: Vec<&&Key> = keys.iter().filter(|key| !found.contains(key)).take(3).collect();
            let added: Vec<&Key> = found.iter().filter(|key| !keys.contains(key)).take(3).collect();
            return Err(format!(
                "{} rows, recounted {}; missing {missing:?}, too many {added:?} (or another order)",
                found.len(),
                keys.len()
            ));
        }
        for ((key, cell), row) in wanted.iter().zip(&rows) {
            cell.check(row).map_err(|what| format!("{key:?}: {what}"))?;
        }
        Ok(())
    }

    /// Ends the test unless each of these answers is right.
    pub fn check_all<'a>(&self, taken: impl IntoIterator<Item = &'a (Question, Answer)>) {
        let taken: Vec<&(Question, Answer)> = taken.into_iter().collect();
        let said = |(question, answer): &(Question, Answer)| {
            self.check(question, answer).err().map(|what| format!("{question:?} at {:?}: {what}", answer.cut))
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let parts = taken.chunks(taken.len().div_ceil(cores).max(1));
            let judges: Vec<_> =
                parts.map(|part| scope.spawn(move || part.iter().filter_map(|&one| said(one)).collect::<Vec<_>>())).collect();
            judges.into_iter().flat_map(|judge| judge.join().expect("a judge comes to an end")).collect()
        });
        assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), taken.len(), wrong[..wrong.len().min(5)].join("\n"));
    }

    fn rows(&self, question: &Question, answer: &Answer) -> Vec<(Key, Cell)> {
        let mut buckets: HashMap<i64, i64> = HashMap::new();
        let mut rows: BTreeMap<Key, Cell> = BTreeMap::new();
        for (partition, offset, event) in self.events_of(question) {
            if offset >= answer.cut[&partition] || !event.matches(question) {
                continue;
            }
            let bucket = *buckets.entry(event.window_ms).or_insert_with(|| question.bucket(event.window_ms));
            let values = question.group_by.iter().map(|dimension| event.value(dimension).to_owned()).collect();
            rows.entry((bucket, values)).or_default().add(event.amount);
        }
        if question.step == "total" && question.group_by.is_empty() {
            rows.entry((0, Vec::new())).or_default();
        }
        let mut rows: Vec<(Key, Cell)> = rows.into_iter().collect();
        if let Some(top) = question.top {
            rows.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.cmp(b)));
            rows.truncate(top);
        }
        rows
    }
}

/// Bucket and values.
type Key = (i64, Vec<String>);

fn key(question: &Question, row: &Value) -> Result<Key, String> {
    let bucket = match row["window"].as_str() {
        Some(window) => window.parse::<jiff::Timestamp>().map_err(|error| format!("{window}: {error}"))?.as_millisecond(),
        None => 0,
    };
    let value = |name: &&str| row[*name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name} in {row}"));
    Ok((bucket, question.group_by.iter().map(value).collect::<Result<_, _>>()?))
}

impl Event {
    fn value(&self, dimension: &str) -> &str {
        match dimension {
            "event_type" => &self.event_type,
            "product_id" => &self.product_id,
            "user_id" => &self.user_id,
            other => panic!("this recount knows no dimension {other}"),
        }
    }

    fn matches(&self, question: &Question) -> bool {
        let allowed = |dimension: &str| {
            let mut values = question.filters.iter().filter(|(name, _)| *name == dimension).map(|(_, value)| *value).peekable();
            values.peek().is_none() || values.any(|value| value == self.value(dimension))
        };
        question.from_ms.is_none_or(|from| from <= self.window_ms)
            && question.to_ms.is_none_or(|to| self.window_ms < to)
            && allowed("event_type")
            && allowed("product_id")
            && allowed("user_id")
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
#[derive(Debug, Default)]
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
