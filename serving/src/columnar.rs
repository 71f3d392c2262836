//! Answers as columns: an Arrow IPC stream, or a Parquet file. Pure.
//!
//! The values are those of the JSON answer, exactly: decimals stay decimals, and nothing passes through a float. What is
//! written is a function of the generation, the cut and the query alone, as the names of schema metadata say; the marks,
//! which move while the numbers stay, are in the response's headers.

use crate::answer::Answer;
use crate::measure::Measure;
use crate::plan::Plan;
use arrow_array::{ArrayRef, Decimal128Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::sync::Arc;
use tidemark_core::amount::{Amount, Average};
use tidemark_core::cell::Cell;
use tidemark_core::window::Step;

/// Digits of a decimal, all that 128 bits hold: a sum of 2^63 amounts fits.
const PRECISION: u8 = 38;

const IN_MEMORY: &str = "columns of equal length that their schema describes are written to memory";

/// The answer as an Arrow IPC stream of one batch.
pub fn arrow(plan: &Plan, answer: &Answer) -> Vec<u8> {
    let batch = batch(plan, answer);
    let write = || {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    write().expect(IN_MEMORY)
}

/// The answer as a Parquet file. Its pages are compressed already.
pub fn parquet(plan: &Plan, answer: &Answer) -> Vec<u8> {
    let batch = batch(plan, answer);
    // For readers that do not know Arrow's schema.
    let metadata = said(answer).map(|(name, value)| KeyValue::new(name.to_owned(), value)).to_vec();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("tidemark".to_owned())
        .set_key_value_metadata(Some(metadata))
        .build();
    let write = || {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    write().expect(IN_MEMORY)
}

/// What an answer says of itself.
fn said(answer: &Answer) -> [(&'static str, String); 2] {
    [("tidemark.generation", answer.generation.to_string()), ("tidemark.cut", answer.cut.to_string())]
}

fn batch(plan: &Plan, answer: &Answer) -> RecordBatch {
    let rows = &answer.rows;
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    if plan.question.buckets.step() != Step::Total {
        let windows = TimestampMillisecondArray::from_iter_values(rows.iter().map(|(key, _)| key.bucket_ms));
        columns.push(("window", Arc::new(windows.with_timezone("UTC"))));
    }
    for (place, dimension) in plan.question.group_by.iter().enumerate() {
        let values = StringArray::from_iter_values(rows.iter().map(|(key, _)| &*key.values[place]));
        columns.push((dimension.name(), Arc::new(values)));
    }
    for &measure in &plan.measures {
        columns.push((measure.name(), column(measure, rows.iter().map(|(_, cell)| cell))));
    }
    let field = |(name, column): &(&str, ArrayRef)| {
        let is_amount = matches!(column.data_type(), arrow_schema::DataType::Decimal128(..));
        Field::new(*name, column.data_type().clone(), is_amount)
    };
    let schema = Schema::new_with_metadata(columns.iter().map(field).collect::<Vec<_>>(), said(answer));
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).expect(IN_MEMORY)
}

/// Null where no event had an amount.
fn column<'c>(measure: Measure, cells: impl Iterator<Item = &'c Cell>) -> ArrayRef {
    let amount = |amount: Amount| i128::from(amount.ten_thousandths());
    let decimals = |values: Decimal128Array, scale: u32| -> ArrayRef {
        let scale = i8::try_from(scale).expect("an amount has a few decimals");
        Arc::new(values.with_precision_and_scale(PRECISION, scale).expect("the scale is below the precision"))
    };
    match measure {
        Measure::Count => Arc::new(UInt64Array::from_iter_values(cells.map(|cell| cell.count))),
        Measure::AmountCount => Arc::new(UInt64Array::from_iter_values(cells.map(|cell| cell.amount_count))),
        Measure::Sum => {
            decimals(cells.map(|cell| (cell.amount_count > 0).then(|| cell.sum.ten_thousandths())).collect(), Amount::SCALE_DIGITS)
        }
        Measure::Avg => decimals(cells.map(|cell| cell.sum.average(cell.amount_count)?.millionths()).collect(), Average::SCALE_DIGITS),
        Measure::Min => decimals(cells.map(|cell| cell.min().map(amount)).collect(), Amount::SCALE_DIGITS),
        Measure::Max => decimals(cells.map(|cell| cell.max().map(amount)).collect(), Amount::SCALE_DIGITS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Source, json};
    use crate::plan::tests::planned;
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::{Decimal128Type, TimestampMillisecondType, UInt64Type};
    use arrow_array::{Array, types::DecimalType as _};
    use arrow_ipc::reader::StreamReader;
    use arrow_schema::DataType;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use serde_json::{Map, Value, json};
    use tidemark_core::question::RowKey;
    use tidemark_core::window::rfc3339;

    /// Types with and without amounts, at the limits of what is accepted, and a name that needs care.
    fn answer(rows: bool) -> Answer {
        let mut cells = [Cell::EMPTY; 3];
        cells[0].add(1, None);
        for (n, amount) in [(2, Amount::LIMIT), (3, Amount::LIMIT), (4, Amount::from_ten_thousandths(-1))] {
            cells[1].add(n, Some(amount));
        }
        for (n, amount) in [(5, -20_000), (6, 0), (7, 0)] {
            cells[2].add(n, Some(Amount::from_ten_thousandths(amount)));
        }
        let names = ["", "a \"quoted\"\n漢字", "b"];
        let row = |(n, cell): (usize, Cell)| (RowKey { bucket_ms: 300_000 * i64::from(n > 0), values: vec![names[n].into()] }, cell);
        let rows = if rows { cells.into_iter().enumerate().map(row).collect() } else { Vec::new() };
        let cut = "0:12,3:7".parse().expect("a cut");
        let (mark, end) = Default::default();
        Answer {
            rows,
            memory: None,
            cut,
            mark,
            end,
            generation: tidemark_core::generation::Generation(4),
            revision: 0,
            revised: Vec::new(),
            source: Source::Cache,
        }
    }

    /// A batch in the terms of JSON's rows.
    fn shown(batch: &RecordBatch) -> Vec<Value> {
        let value = |column: &ArrayRef, row: usize| match column.data_type() {
            _ if column.is_null(row) => Value::Null,
            DataType::Timestamp(_, zone) => {
                assert_eq!(zone.as_deref(), Some("UTC"));
                rfc3339(column.as_primitive::<TimestampMillisecondType>().value(row)).into()
            }
            DataType::Utf8 => column.as_string::<i32>().value(row).into(),
            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
            DataType::Decimal128(precision, scale) => {
                Decimal128Type::format_decimal(column.as_primitive::<Decimal128Type>().value(row), *precision, *scale).into()
            }
            other => panic!("{other}"),
        };
        let schema = batch.schema();
        let row = |row: usize| {
            let members = schema.fields().iter().zip(batch.columns()).map(|(field, column)| (field.name().clone(), value(column, row)));
            Value::Object(members.collect::<Map<_, _>>())
        };
        (0..batch.num_rows()).map(row).collect()
    }

    fn check(query: &str, rows: bool) {
        let (plan, answer) = (planned(query).expect("valid"), answer(rows));
        let text: Value = serde_json::from_str(&(json(&plan, &answer) + "}")).expect("JSON");
        let stream = arrow(&plan, &answer);
        let stream = StreamReader::try_new(&*stream, None).expect("an Arrow stream");
        assert_eq!(stream.schema().metadata()["tidemark.cut"], "0:12,3:7");
        assert_eq!(stream.schema().metadata()["tidemark.generation"], "4");
        let streamed: Vec<Value> = stream.flat_map(|batch| shown(&batch.expect("a batch"))).collect();
        let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(parquet(&plan, &answer))).expect("a Parquet file");
        let metadata = file.metadata().file_metadata().key_value_metadata().expect("metadata");
        assert!(metadata.contains(&KeyValue::new("tidemark.cut".to_owned(), "0:12,3:7".to_owned())));
        let filed: Vec<Value> = file.build().expect("rows").flat_map(|batch| shown(&batch.expect("a batch"))).collect();
        assert_eq!((json!(streamed), json!(filed)), (text["rows"].clone(), text["rows"].clone()), "{query}");
    }

    #[test]
    fn columns_have_the_values_of_json_to_the_last_digit() {
        for measures in ["count", "avg,sum", "count,amount_count,sum,avg,min,max"] {
            check(&format!("step=5m&group_by=event_type&measures={measures}"), true);
            check(&format!("group_by=event_type&measures={measures}"), true);
            check(&format!("step=5m&measures={measures}"), false);
        }
    }

    #[test]
    fn equal_answers_are_equal_bytes() {
        let (plan, answer) = (planned("step=5m&group_by=event_type&measures=count,avg").expect("valid"), answer(true));
        assert_eq!((arrow(&plan, &answer), parquet(&plan, &answer)), (arrow(&plan, &answer), parquet(&plan, &answer)));
    }
}
