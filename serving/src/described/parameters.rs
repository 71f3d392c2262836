//! The parameters of a query, as they are described. What reads them is `plan.rs`, and a test holds the two together.

#![expect(dead_code, reason = "described, never made")]

use crate::measure::Measure;
use tidemark_core::view::Dimension;
use tidemark_core::window::Step;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// From when on, on the edge of a 5-minute window: RFC 3339 of the years 1970 to 2106, or epoch milliseconds. Absent: from the beginning.
    #[param(example = "2013-01-01T00:00:00Z")]
    from: Option<String>,
    /// Until when, not included; as `from`. Absent: without end.
    #[param(example = "2013-01-02T00:00:00Z")]
    to: Option<String>,
    /// Instead of `from` and `to`, a range that moves: minutes, hours or days until the window that is open now has ended.
    #[param(pattern = "^([1-9][0-9]{0,5}[hd]|[1-9]?[0-9]{0,5}[05]m)$", example = "3h")]
    last: Option<String>,
    /// How long a bucket is. Absent: one for the whole range.
    #[param(inline, example = "1h")]
    step: Option<Steps>,
    /// Dimensions, separated by commas. The smallest view that has them is asked; without one, raw events, at the cut of history.
    #[param(style = Form, explode = false, inline, example = json!(["event_type", "product_id"]))]
    group_by: Option<Dimensions>,
    /// `dimension:value`. Of the same dimension: one or the other; of different ones: both.
    #[param(rename = "where", style = Form, explode = true, inline, example = json!(["event_type:UA", "event_type:AA"]))]
    filters: Option<Filters>,
    /// What to say of each row, separated by commas. Absent: `count`.
    #[param(style = Form, explode = false, inline, example = json!(["count", "sum"]))]
    measures: Option<Measures>,
    /// A time zone of the IANA's, whose days and weeks are meant.
    #[param(example = "America/New_York")]
    tz: Option<String>,
    /// So many rows of a bucket, those with most of a measure: `N:measure`.
    #[param(pattern = "^[1-9][0-9]{0,3}(:(count|amount_count|sum|avg|min|max))?$", example = "10:sum")]
    top: Option<String>,
    /// Waits until this position is counted: what sending events has answered.
    #[param(pattern = "^[0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*$", example = "0:0")]
    at_least: Option<String>,
    /// How long to wait for it, in milliseconds; 10,000 by itself.
    #[param(maximum = 300_000, example = 1000)]
    timeout_ms: Option<u64>,
}

/// What is asked once, and not listened to.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Pinned {
    /// The answer at a cut that was, the same for ever: `GENERATION/CUT` as an answer's permalink has it, or the cut alone. Where history below the cut has been repaired since, the answer says so: `GENERATION.REVISION/CUT`. Not with `last` or `at_least`.
    #[param(pattern = "^([0-9]{1,9}(\\.[0-9]{1,9})?/)?[0-9]{1,9}:[0-9]{1,18}(,[0-9]{1,9}:[0-9]{1,18})*$", example = "0:0")]
    at: Option<String>,
}

/// Which number of an answer is meant, and which of its events.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Number {
    /// The row's window, where the step is not `total`.
    window: Option<String>,
    /// The row's value, `dimension:value`, of each dimension in `group_by`.
    #[param(style = Form, explode = true, inline)]
    group: Option<Filters>,
    /// Events of a page; 100 by itself.
    #[param(minimum = 1, maximum = 500, example = 10)]
    limit: Option<u32>,
    /// Where the page begins, as the page before says.
    #[param(pattern = "^[0-9]{1,9}:[0-9]{1,18}$", example = "0:0")]
    next: Option<String>,
}

/// One of these names.
fn choice(names: impl IntoIterator<Item = &'static str>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names))
}

/// Kinds of values whose schemas are made of what the planner itself chooses from.
macro_rules! kinds {
    ($($kind:ident: $schema:expr;)*) => {$(
        struct $kind;

        impl PartialSchema for $kind {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }

        impl ToSchema for $kind {}
    )*};
}

kinds! {
    Steps: choice(Step::NAMES.map(|(name, _)| name));
    Dimensions: ArrayBuilder::new().items(choice(Dimension::ALL.map(Dimension::name))).unique_items(true);
    Measures: ArrayBuilder::new().items(choice(Measure::ALL.map(Measure::name)));
    Filters: ArrayBuilder::new().items(filter()).max_items(Some(1000));
}

fn filter() -> ObjectBuilder {
    let dimensions = Dimension::ALL.map(Dimension::name).join("|");
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({dimensions}):")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PARAMETERS, absolute, plan_text, tests::rules};
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn described() -> Vec<Value> {
        let parameters = Question::into_params(|| None).into_iter().chain(Pinned::into_params(|| None));
        parameters.map(|parameter| serde_json::to_value(parameter).expect("JSON")).collect()
    }

    #[test]
    fn the_planner_reads_what_is_described_and_nothing_else() {
        let described: BTreeSet<String> = described().iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect();
        assert_eq!(described, PARAMETERS.split(", ").map(str::to_owned).collect());
    }

    #[test]
    fn what_aims_at_a_number_is_described() {
        let described = Number::into_params(|| None);
        assert_eq!(described.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), crate::explain::OWN);
    }

    #[test]
    fn every_example_is_understood() {
        for parameter in described() {
            let name = parameter["name"].as_str().expect("a name");
            let query = match &parameter["example"] {
                Value::Array(items) if parameter["explode"] == true => {
                    items.iter().map(|item| format!("{name}={}", item.as_str().expect("text"))).collect::<Vec<_>>().join("&")
                }
                Value::Array(items) => format!("{name}={}", items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            };
            let query = absolute(&query, 1_357_000_000_000).expect("an example is understood");
            plan_text(&rules(), &query).unwrap_or_else(|error| panic!("{query}: {error}"));
        }
    }
}
