//! Parquet files of events (⇄): each row becomes the JSON that a producer would have sent.
//!
//! Columns have an event's names, as the raw history's tables do, in any order. `event_type` and `timestamp` must be there;
//! any other column is refused, for what would become of it nobody could say.

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use tidemark_core::amount::Amount;
use tidemark_history::rows::RawEvent;

/// What every Parquet file begins with.
pub(super) const MAGIC: &[u8] = b"PAR1";

const NAMES: &str = "event_id, event_type, timestamp, product_id, user_id, order_amount and properties";

/// A Parquet file whose columns are those of events.
pub(super) struct Rows {
    reader: SerializedFileReader<File>,
    columns: Vec<Column>,
    pub(super) count: u64,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("columns", &self.columns).field("count", &self.count).finish_non_exhaustive()
    }
}

/// What is wrong with a file as a whole.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("is no whole Parquet file ({0}): write it again")]
    Broken(#[from] ParquetError),
    #[error("cannot be opened: {0}")]
    Open(#[from] io::Error),
    #[error("the column `{0}` is none of an event's, which are {NAMES}: leave it out when the file is written, or put it into properties")]
    Unknown(String),
    #[error("the column `{0}` is there twice: write it once")]
    Twice(String),
    #[error("the column `{0}` is missing, and no event is without it")]
    Missing(&'static str),
    #[error("the column `{column}` is {is}, and must be {must_be}: convert it when the file is written")]
    Type { column: String, is: String, must_be: &'static str },
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("cannot be read ({0}): the file is broken there; write it again")]
    Broken(#[from] ParquetError),
    #[error("{column} is {value}, and must be {must_be}: correct it when the file is written")]
    Value { column: &'static str, value: String, must_be: &'static str },
}

/// What a column is, and how its values are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    EventId,
    EventType,
    ProductId,
    UserId,
    Timestamp(Time),
    Amount,
    /// A map, a group, or the text of a JSON object.
    Properties,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Time {
    /// RFC 3339.
    Text,
    /// Of an integer, so many make a millisecond. Where the library knows the unit, it has made it one already.
    PerMs(i64),
}

impl Rows {
    pub(super) fn open(path: &Path) -> Result<Self, SchemaError> {
        let reader = SerializedFileReader::new(File::open(path)?)?;
        let meta = reader.metadata().file_metadata();
        let columns = columns(meta.schema())?;
        let count = u64::try_from(meta.num_rows()).unwrap_or_default();
        Ok(Self { reader, columns, count })
    }

    /// Hands over the events of the rows behind the first `done`, with their numbers from 1, until `give` says that it is
    /// enough. True if that was all.
    pub(super) fn each<E>(
        &self,
        done: u64,
        mut give: impl FnMut(u64, &RawEvent) -> Result<bool, E>,
        failed: impl Fn(u64, RowError) -> E,
    ) -> Result<bool, E> {
        let mut before = 0;
        for number in 0..self.reader.num_row_groups() {
            let first = before;
            before += u64::try_from(self.reader.metadata().row_group(number).num_rows()).unwrap_or_default();
            if before <= done {
                continue;
            }
            let broken = |at| move |error: ParquetError| (at, RowError::from(error));
            let group = self.reader.get_row_group(number).map_err(broken(first + 1)).map_err(|(at, error)| failed(at, error))?;
            let rows = group.get_row_iter(None).map_err(|error| failed(first + 1, error.into()))?;
            for (at, row) in (first + 1..).zip(rows) {
                if at <= done {
                    continue;
                }
                let event = row.map_err(RowError::from).and_then(|row| event(&self.columns, &row)).map_err(|error| failed(at, error))?;
                if !give(at, &event)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn columns(schema: &Type) -> Result<Vec<Column>, SchemaError> {
    let fields = schema.get_fields();
    let columns = fields.iter().map(|field| column(field)).collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(SchemaError::Twice(twice[0].to_owned()));
    }
    match ["event_type", "timestamp"].into_iter().find(|needed| !names.contains(needed)) {
        Some(missing) => Err(SchemaError::Missing(missing)),
        None => Ok(columns),
    }
}

fn column(field: &Type) -> Result<Column, SchemaError> {
    let (found, must_be) = match field.name() {
        "event_id" => (is_text(field).then_some(Column::EventId), "text or an integer"),
        "event_type" => (is_text(field).then_some(Column::EventType), "text or an integer"),
        "product_id" => (is_text(field).then_some(Column::ProductId), "text or an integer"),
        "user_id" => (is_text(field).then_some(Column::UserId), "text or an integer"),
        "timestamp" => {
            (time(field).map(Column::Timestamp), "a timestamp, an integer of epoch milliseconds (64 bits), or text as RFC 3339 has it")
        }
        "order_amount" => (is_amount(field).then_some(Column::Amount), "a decimal, a floating-point number, an integer, or one as text"),
        "properties" => {
            (is_properties(field).then_some(Column::Properties), "a map from text, a group of plain values, or a JSON object as text")
        }
        other => return Err(SchemaError::Unknown(other.to_owned())),
    };
    found.ok_or_else(|| SchemaError::Type { column: field.name().to_owned(), is: type_text(field), must_be })
}

/// A type as people write it.
fn type_text(field: &Type) -> String {
    if !field.is_primitive() {
        return format!("a group ({})", field.get_basic_info().converted_type());
    }
    match field.get_basic_info().converted_type() {
        ConvertedType::NONE => field.get_physical_type().to_string(),
        converted => format!("{} ({converted})", field.get_physical_type()),
    }
}

/// A plain value, and one a row. Only these are read: the library panics at others.
fn plain(field: &Type) -> Option<(Physical, ConvertedType)> {
    let single = !field.get_basic_info().has_repetition() || field.get_basic_info().repetition() != parquet::basic::Repetition::REPEATED;
    (field.is_primitive() && single).then(|| (field.get_physical_type(), field.get_basic_info().converted_type()))
}

fn is_integer(physical: Physical, converted: ConvertedType) -> bool {
    use ConvertedType as C;
    match physical {
        Physical::INT32 => matches!(converted, C::NONE | C::INT_8 | C::INT_16 | C::INT_32 | C::UINT_8 | C::UINT_16 | C::UINT_32),
        Physical::INT64 => matches!(converted, C::NONE | C::INT_64 | C::UINT_64),
        _ => false,
    }
}

fn is_string(physical: Physical, converted: ConvertedType) -> bool {
    use ConvertedType as C;
    physical == Physical::BYTE_ARRAY && matches!(converted, C::NONE | C::UTF8 | C::ENUM | C::JSON)
}

/// An integer that says of itself that it is a time is none.
fn is_timestamp(field: &Type) -> bool {
    matches!(field.get_basic_info().logical_type_ref(), Some(LogicalType::Timestamp(_) | LogicalType::Time(_)))
}

fn is_text(field: &Type) -> bool {
    plain(field)
        .is_some_and(|(physical, converted)| is_string(physical, converted) || is_integer(physical, converted) && !is_timestamp(field))
}

fn is_number(physical: Physical, converted: ConvertedType) -> bool {
    matches!(physical, Physical::FLOAT | Physical::DOUBLE)
        || is_integer(physical, converted)
        || converted == ConvertedType::DECIMAL
            && matches!(physical, Physical::INT32 | Physical::INT64 | Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY)
}

fn is_amount(field: &Type) -> bool {
    plain(field)
        .is_some_and(|(physical, converted)| is_string(physical, converted) || is_number(physical, converted) && !is_timestamp(field))
}

fn time(field: &Type) -> Option<Time> {
    let (physical, converted) = plain(field)?;
    let unit = match field.get_basic_info().logical_type_ref() {
        Some(LogicalType::Timestamp(stamp)) => Some(&stamp.unit),
        _ => None,
    };
    match (physical, converted, unit) {
        (Physical::INT96, ..) | (Physical::INT64, ConvertedType::TIMESTAMP_MILLIS, _) => Some(Time::PerMs(1)),
        (Physical::INT64, ConvertedType::TIMESTAMP_MICROS, _) => Some(Time::PerMs(1000)),
        (Physical::INT64, ConvertedType::NONE, Some(TimeUnit::NANOS)) => Some(Time::PerMs(1_000_000)),
        (Physical::INT64, ConvertedType::NONE | ConvertedType::INT_64, None) => Some(Time::PerMs(1)),
        (physical, converted, None) if is_string(physical, converted) => Some(Time::Text),
        _ => None,
    }
}

fn is_properties(field: &Type) -> bool {
    let value = |field: &Type| {
        plain(field).is_some_and(|(physical, converted)| {
            (is_string(physical, converted) || is_number(physical, converted) || physical == Physical::BOOLEAN) && !is_timestamp(field)
        })
    };
    if let Some((physical, converted)) = plain(field) {
        return is_string(physical, converted);
    }
    if field.is_primitive() {
        return false;
    }
    match (field.get_basic_info().converted_type(), field.get_fields()) {
        (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [pair]) => {
            !pair.is_primitive() && matches!(pair.get_fields(), [name, of] if is_text(name) && value(of))
        }
        (ConvertedType::NONE, fields) => fields.iter().all(|field| value(field)),
        _ => false,
    }
}

fn event(columns: &[Column], row: &Row) -> Result<RawEvent, RowError> {
    let (mut event, mut timestamp_ms) = (RawEvent::default(), None);
    for (column, (_, field)) in columns.iter().zip(row.get_column_iter()) {
        match column {
            Column::EventId => event.event_id = text(field, "event_id")?.unwrap_or_default(),
            Column::EventType => event.event_type = text(field, "event_type")?.unwrap_or_default(),
            Column::ProductId => event.product_id = text(field, "product_id")?.unwrap_or_default(),
            Column::UserId => event.user_id = text(field, "user_id")?.unwrap_or_default(),
            Column::Timestamp(time) => timestamp_ms = ms(field, *time)?,
            Column::Amount => event.order_amount = amount(field)?,
            Column::Properties => event.properties = properties(field)?,
        }
    }
    let missing = |column| RowError::Value { column, value: "null".to_owned(), must_be: "there in every row" };
    if event.event_type.is_empty() {
        return Err(missing("event_type"));
    }
    event.timestamp_ms = timestamp_ms.ok_or_else(|| missing("timestamp"))?;
    Ok(event)
}

/// A value as text; `None` of null.
fn text(field: &Field, column: &'static str) -> Result<Option<String>, RowError> {
    match field {
        Field::Null => Ok(None),
        Field::Str(text) => Ok(Some(text.clone())),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(error) => Err(RowError::Value { column, value: error.to_string(), must_be: "UTF-8" }),
        },
        // Without an exponent, and with no digit more than it takes.
        Field::Double(number) => Ok(Some(number.to_string())),
        Field::Float(number) => Ok(Some(number.to_string())),
        number => Ok(Some(number.to_string().trim_end_matches('.').to_owned())),
    }
}

fn ms(field: &Field, time: Time) -> Result<Option<i64>, RowError> {
    let per = match time {
        Time::PerMs(per) => per,
        Time::Text => 1,
    };
    match field {
        Field::Null => Ok(None),
        Field::TimestampMillis(n) | Field::TimestampMicros(n) | Field::Long(n) => Ok(Some(n.div_euclid(per))),
        other => {
            let value = text(other, "timestamp")?.unwrap_or_default();
            match value.parse::<jiff::Timestamp>() {
                Ok(at) => Ok(i64::try_from(at.as_nanosecond().div_euclid(1_000_000)).ok()),
                Err(_) => Err(RowError::Value { column: "timestamp", value: format!("`{value}`"), must_be: "RFC 3339" }),
            }
        }
    }
}

fn amount(field: &Field) -> Result<Option<Amount>, RowError> {
    let Some(value) = text(field, "order_amount")? else { return Ok(None) };
    let refused = |_| RowError::Value { column: "order_amount", value: format!("`{value}`"), must_be: "a number within ±10^14" };
    Amount::parse_decimal(value.as_bytes()).map(Some).map_err(refused)
}

/// Names and values as text; those that are null are left out.
fn properties(field: &Field) -> Result<Vec<(String, String)>, RowError> {
    const COLUMN: &str = "properties";
    let mut all = Vec::new();
    match field {
        Field::Null => {}
        Field::MapInternal(map) => {
            for (name, value) in map.entries() {
                if let (Some(name), Some(value)) = (text(name, COLUMN)?, text(value, COLUMN)?) {
                    all.push((name, value));
                }
            }
        }
        Field::Group(group) => {
            for (name, value) in group.get_column_iter() {
                all.extend(text(value, COLUMN)?.map(|value| (name.clone(), value)));
            }
        }
        json => {
            let json = text(json, COLUMN)?.unwrap_or_default();
            let refused = |_| RowError::Value { column: COLUMN, value: format!("`{json}`"), must_be: "a JSON object" };
            if !json.is_empty() {
                all = serde_json::Deserializer::from_str(&json).deserialize_map(Members).map_err(refused)?;
            }
        }
    }
    Ok(all)
}

/// An object's members in order, values as text: strings unescaped, everything else as it was written.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = object.next_entry::<String, Box<RawValue>>()? {
            let text = serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned());
            members.push((name, text));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::path::PathBuf;
    use std::sync::Arc;

    /// The values of one column, with their definition levels, and for a map the repetition levels.
    enum Values {
        Text(Vec<&'static str>, Vec<i16>, Option<Vec<i16>>),
        Longs(Vec<i64>, Vec<i16>),
        Ints(Vec<i32>, Vec<i16>),
        Doubles(Vec<f64>, Vec<i16>),
        Fixed(Vec<Vec<u8>>, Vec<i16>),
    }

    /// Writes a file of one group of rows.
    fn write(dir: &tempfile::TempDir, schema: &str, columns: Vec<Values>) -> PathBuf {
        let path = dir.path().join("rows.parquet");
        let schema = Arc::new(parse_message_type(&format!("message events {{ {schema} }}")).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for values in columns {
            let mut column = group.next_column().unwrap().expect("as many columns as the schema has");
            match values {
                Values::Text(texts, levels, repeated) => {
                    let texts: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
                    column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), repeated.as_deref()).unwrap();
                }
                Values::Longs(numbers, levels) => {
                    column.typed::<Int64Type>().write_batch(&numbers, Some(&levels), None).unwrap();
                }
                Values::Ints(numbers, levels) => {
                    column.typed::<Int32Type>().write_batch(&numbers, Some(&levels), None).unwrap();
                }
                Values::Doubles(numbers, levels) => {
                    column.typed::<DoubleType>().write_batch(&numbers, Some(&levels), None).unwrap();
                }
                Values::Fixed(bytes, levels) => {
                    let bytes: Vec<FixedLenByteArray> = bytes.into_iter().map(FixedLenByteArray::from).collect();
                    column.typed::<FixedLenByteArrayType>().write_batch(&bytes, Some(&levels), None).unwrap();
                }
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        path
    }

    /// The rows behind the first `done` as JSON, a line each; or what is wrong.
    fn picture(path: &Path, done: u64) -> String {
        let rows = match Rows::open(path) {
            Ok(rows) => rows,
            Err(error) => return error.to_string(),
        };
        let mut lines = Vec::new();
        let given = rows.each(
            done,
            |row, event| {
                lines.push(format!("{row} {}", String::from_utf8(event.to_json()).unwrap()));
                Ok(true)
            },
            |row, error| format!("{row}: {error}"),
        );
        lines.extend(given.err());
        lines.join("\n")
    }

    #[test]
    fn rows_become_the_json_that_a_producer_sends_whatever_the_types_are() {
        let dir = tempfile::tempdir().unwrap();
        let schema = "optional binary event_id (UTF8); optional binary event_type; optional int64 timestamp (TIMESTAMP(MICROS,true)); \
            optional int64 user_id; optional fixed_len_byte_array(8) order_amount (DECIMAL(18,4)); \
            optional group properties (MAP) { repeated group key_value { required binary key (UTF8); optional binary value (UTF8); } }";
        let path = write(
            &dir,
            schema,
            vec![
                Values::Text(vec!["e-1"], vec![1, 0], None),
                Values::Text(vec!["buy", "say \"Ü\""], vec![1, 1], None),
                Values::Longs(vec![1_357_035_300_001_999, -1], vec![1, 1]),
                Values::Longs(vec![7], vec![0, 1]),
                Values::Fixed(vec![(-125_000i64).to_be_bytes().to_vec()], vec![1, 0]),
                Values::Text(vec!["a", "b"], vec![2, 2, 0], Some(vec![0, 1, 0])),
                Values::Text(vec!["1.50"], vec![3, 2, 0], Some(vec![0, 1, 0])),
            ],
        );
        let first =
            r#"1 {"event_type":"buy","timestamp":1357035300001,"event_id":"e-1","order_amount":-12.5000,"properties":{"a":"1.50"}}"#;
        let second = r#"2 {"event_type":"say \"Ü\"","timestamp":-1,"user_id":"7"}"#;
        assert_eq!(picture(&path, 0), format!("{first}\n{second}"));
        assert_eq!((picture(&path, 1), picture(&path, 2)), (second.to_owned(), String::new()));
    }

    #[test]
    fn times_may_be_text_or_milliseconds_amounts_floating_and_properties_json() {
        let dir = tempfile::tempdir().unwrap();
        let event_type = "required binary event_type (UTF8);";
        let kind = || Values::Text(vec!["a"], vec![0], None);
        let check = |rest: &str, mut values: Vec<Values>, expected: &str| {
            values.insert(0, kind());
            assert_eq!(picture(&write(&dir, &format!("{event_type} {rest}"), values), 0), expected);
        };
        let time = "optional binary timestamp (UTF8);";
        let at = || Values::Text(vec!["2013-01-01T11:15:00.0019+01:00"], vec![1], None);
        check(time, vec![at()], r#"1 {"event_type":"a","timestamp":1357035300001}"#);
        check("optional int64 timestamp;", vec![Values::Longs(vec![5], vec![1])], r#"1 {"event_type":"a","timestamp":5}"#);
        let nanos = "optional int64 timestamp (TIMESTAMP(NANOS,true));";
        check(nanos, vec![Values::Longs(vec![5_999_999], vec![1])], r#"1 {"event_type":"a","timestamp":5}"#);
        let amount = format!("{time} optional double order_amount;");
        for (number, expected) in [(0.1, "0.1000"), (-12.0, "-12.0000"), (1e-9, "0.0000"), (99_999_999_999_999.0, "99999999999999.0000")] {
            let expected = format!(r#"1 {{"event_type":"a","timestamp":1357035300001,"order_amount":{expected}}}"#);
            check(&amount, vec![at(), Values::Doubles(vec![number], vec![1])], &expected);
        }
        let refused = "1: order_amount is `NaN`, and must be a number within ±10^14: correct it when the file is written";
        check(&amount, vec![at(), Values::Doubles(vec![f64::NAN], vec![1])], refused);
        let whole = format!("{time} optional int32 order_amount (DECIMAL(5,0));");
        let expected = r#"1 {"event_type":"a","timestamp":1357035300001,"order_amount":12.0000}"#;
        check(&whole, vec![at(), Values::Ints(vec![12], vec![1])], expected);
        let json = format!("{time} optional binary properties (JSON);");
        let text = Values::Text(vec![r#"{"b":1.50,"a":"x\ty","c":[1, 2]}"#], vec![1], None);
        let expected = r#"1 {"event_type":"a","timestamp":1357035300001,"properties":{"b":"1.50","a":"x\ty","c":"[1, 2]"}}"#;
        check(&json, vec![at(), text], expected);
        let refused = "1: properties is `[1]`, and must be a JSON object: correct it when the file is written";
        check(&json, vec![at(), Values::Text(vec!["[1]"], vec![1], None)], refused);
        check(
            time,
            vec![Values::Text(vec![], vec![0], None)],
            "1: timestamp is null, and must be there in every row: correct it when the file is written",
        );
        let refused = "1: timestamp is `today`, and must be RFC 3339: correct it when the file is written";
        check(time, vec![Values::Text(vec!["today"], vec![1], None)], refused);
    }

    #[test]
    fn a_column_that_no_event_has_or_of_another_type_is_refused_with_what_to_do() {
        let schema = |text: &str| columns(&parse_message_type(&format!("message events {{ {text} }}")).unwrap());
        let refused = |text: &str| schema(text).unwrap_err().to_string();
        let known = "optional binary event_type (UTF8); optional int64 timestamp;";
        assert!(schema(known).is_ok());
        let unknown = refused(&format!("{known} optional int64 offset;"));
        assert!(
            unknown.starts_with("the column `offset` is none of an event's") && unknown.contains("put it into properties"),
            "{unknown}"
        );
        assert_eq!(refused("optional int64 timestamp;"), "the column `event_type` is missing, and no event is without it");
        for (wrong, says) in [
            ("optional boolean order_amount;", "`order_amount` is BOOLEAN, and must be a decimal"),
            ("repeated binary user_id (UTF8);", "`user_id` is BYTE_ARRAY (UTF8), and must be text"),
            ("optional int32 product_id (DATE);", "`product_id` is INT32 (DATE)"),
            ("optional group properties (LIST) { repeated group list { optional int64 element; } }", "`properties` is a group (LIST)"),
            ("optional group properties { optional group deep { optional int64 a; } }", "`properties` is a group (NONE)"),
        ] {
            let refused = refused(&format!("{known} {wrong}"));
            assert!(refused.contains(says) && refused.contains("convert it"), "{refused}");
        }
        let time = refused("optional binary event_type (UTF8); optional int32 timestamp (DATE);");
        assert!(time.contains("`timestamp` is INT32 (DATE), and must be a timestamp"), "{time}");
    }
}
