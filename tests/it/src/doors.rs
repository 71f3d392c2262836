//! The doors of an answer: the same question gives the same rows at the same cut, by whichever it is asked.

use crate::client::{Client, Reply, written};
use crate::listening::Listener;
use crate::question::{Answer, Question};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Decimal128Type, DecimalType as _, TimestampMillisecondType, UInt64Type};
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_ipc::reader::StreamReader;
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// Rows as texts, a value that there is not an empty one.
type Table = Vec<Vec<String>>;

/// Asks what has been answered again by every other door of the same planner, and compares. Events must not come in
/// meanwhile. What Prometheus's door says is another language: `tests/prometheus.rs`.
#[track_caller]
pub fn check(client: &Client, question: &Question, answer: &Answer) {
    let columns = columns(question);
    let expected = of_json(&columns, &answer.rows());
    let path = question.path(None);
    let ask = |path: &str| {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.cut.as_ref()), (200, Some(&written(&answer.cut))), "{path}: {}", reply.text());
        reply
    };
    let by = |suffix: &str| ask(&path.replace("/v1/query?", &format!("/v1/query.{suffix}?")));
    let json = ask(&path);
    let pinned = ask(json.link.as_deref().expect("an answer links to itself"));
    assert_eq!(pinned.json()["generation"], answer.generation, "{path}");
    check_table("at", &of_json(&columns, pinned.json()["rows"].as_array().expect("rows")), &expected, &path);
    check_table("csv", &of_csv(&columns, &by("csv")), &expected, &path);
    let lines: Vec<Value> = by("ndjson").text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    check_table("ndjson", &of_json(&columns, &lines), &expected, &path);
    let arrow = by("arrow");
    let batches = StreamReader::try_new(&*arrow.body, None).expect("an Arrow stream");
    check_table("arrow", &of_batches(&columns, batches.map(|batch| batch.expect("a batch"))), &expected, &path);
    let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(by("parquet").body)).expect("a Parquet file");
    let batches = file.build().expect("it can be read").map(|batch| batch.expect("a batch"));
    check_table("parquet", &of_batches(&columns, batches), &expected, &path);
    // Pushed rows have no order.
    let mut listener = Listener::new(client, question.clone());
    listener.hear(1);
    let (_, held) = listener.held.pop().expect("a snapshot");
    let (mut pushed, mut expected) = (of_json(&columns, &held.rows()), expected);
    pushed.sort();
    expected.sort();
    assert_eq!((held.cut, held.generation), (answer.cut.clone(), answer.generation), "live: {path}");
    check_table("live", &pushed, &expected, &path);
}

#[track_caller]
fn check_table(door: &str, found: &Table, expected: &Table, path: &str) {
    assert!(found == expected, "{door} answers {path} with {} rows, {found:?}, and not {expected:?}", found.len());
}

/// The names of an answer's columns, in order.
fn columns(question: &Question) -> Vec<&'static str> {
    let window = (question.step != "total").then_some("window");
    window.into_iter().chain(question.group_by.iter().copied()).chain(["count", "amount_count", "sum", "min", "max", "avg"]).collect()
}

fn of_json(columns: &[&str], rows: &[Value]) -> Table {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    rows.iter().map(|row| columns.iter().map(|name| text(&row[*name])).collect()).collect()
}

/// No value of the flights needs quotes.
fn of_csv(columns: &[&str], reply: &Reply) -> Table {
    let text = reply.text();
    let mut lines = text.split_terminator("\r\n").map(|line| line.split(',').map(str::to_owned).collect::<Vec<String>>());
    assert_eq!(lines.next().expect("a header"), columns);
    lines.collect()
}

fn of_batches(columns: &[&str], batches: impl Iterator<Item = RecordBatch>) -> Table {
    let mut table = Table::new();
    for batch in batches {
        let schema = batch.schema();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), columns);
        table.extend((0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| value(column, row)).collect()));
    }
    table
}

fn value(column: &ArrayRef, row: usize) -> String {
    match column.data_type() {
        _ if column.is_null(row) => String::new(),
        DataType::Timestamp(..) => {
            let at = crate::question::instant(column.as_primitive::<TimestampMillisecondType>().value(row));
            at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
        }
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Decimal128(precision, scale) => {
            Decimal128Type::format_decimal(column.as_primitive::<Decimal128Type>().value(row), *precision, *scale)
        }
        other => panic!("an answer has no column of {other}"),
    }
}
