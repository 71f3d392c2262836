//! `/api/v1`: what Prometheus's clients ask: Grafana, alerting, promtool.

use super::Shared;
use crate::answering::Answering;
use crate::prometheus::ask::{self, Limit, MOST_POINTS, Told};
use crate::prometheus::{Failure, METRICS, Remarks, Span, Times, bad, duration_secs, edge_before, error, success};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tidemark_core::window::WINDOW_MS;
use tidemark_topic::now_ms;

/// The version of Prometheus whose ranges are like ours: open at their beginning.
const LIKE_VERSION: &str = "3.0.0";

pub fn routes() -> Router<Answering> {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(label_values))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/status/buildinfo", get(buildinfo))
}

async fn query(State(engine): State<Shared>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), &body);
    let at_ms = given.time("time")?.unwrap_or_else(now_ms);
    ask::instant(&engine, given.required("query")?, at_ms, given.limit()?, given.waiting()).await.map(written)
}

async fn query_range(State(engine): State<Shared>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), &body);
    let times = given.times()?;
    ask::range(&engine, given.required("query")?, times, given.limit()?, given.waiting()).await.map(written)
}

async fn series(State(engine): State<Shared>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), &body);
    ask::there(&engine, &given.selectors(), given.span()?, given.limit()?).await.map(written)
}

async fn labels(State(engine): State<Shared>, RawQuery(query): RawQuery, body: Bytes) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), &body);
    ask::labels(&engine, &given.selectors(), given.limit()?).map(written)
}

async fn label_values(State(engine): State<Shared>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), b"");
    ask::values(&engine, &name, &given.selectors(), given.span()?, given.limit()?).await.map(written)
}

async fn metadata(RawQuery(query): RawQuery) -> Result<Response, Failure> {
    let given = Given::read(query.as_deref(), b"");
    let wanted = METRICS.iter().filter(|metric| given.get("metric").is_none_or(|name| name == metric.name));
    let told = wanted.map(|metric| (metric.name.to_owned(), json!([{"type": metric.kind.name(), "help": metric.help, "unit": ""}])));
    let data: Value = told.take(given.limit()?.0.unwrap_or(usize::MAX)).collect::<serde_json::Map<String, Value>>().into();
    Ok(written(Told { data: data.to_string(), remarks: Remarks::default(), cut: None }))
}

async fn buildinfo() -> Response {
    let data = json!({
        "version": LIKE_VERSION,
        "revision": format!("tidemark {}", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        // Unknown, and a date for those that insist on one.
        "buildDate": "19700101-00:00:00",
        "goVersion": "",
    });
    written(Told { data: data.to_string(), remarks: Remarks::default(), cut: None })
}

fn written(Told { data, remarks, cut }: Told) -> Response {
    let cut = cut.map(|cut| [("tidemark-cut", cut.to_string())]);
    ([(header::CONTENT_TYPE, "application/json")], cut, success(&data, &remarks)).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self {
            Self::BadData(_) => StatusCode::BAD_REQUEST,
            Self::Execution(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Timeout(_) | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let again = (status == StatusCode::SERVICE_UNAVAILABLE).then_some([(header::RETRY_AFTER, "1")]);
        (status, [(header::CONTENT_TYPE, "application/json")], again, error(&self)).into_response()
    }
}

/// Parameters, of the address or of a form. Those that are not known are some other server's.
struct Given(Vec<(String, String)>);

impl Given {
    fn read(query: Option<&str>, body: &[u8]) -> Self {
        let pairs = |text| form_urlencoded::parse(text).into_owned();
        Self(pairs(body).chain(pairs(query.unwrap_or_default().as_bytes())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn required(&self, name: &str) -> Result<&str, Failure> {
        self.get(name).map_or_else(|| bad(format!("the parameter {name} is missing")), Ok)
    }

    fn selectors(&self) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == "match[]").map(|(_, value)| value.clone()).collect()
    }

    fn waiting(&self) -> ask::Waiting {
        let handed_on = ["at_least", "timeout_ms"];
        self.0.iter().filter(|(name, _)| handed_on.contains(&name.as_str())).cloned().collect()
    }

    fn limit(&self) -> Result<Limit, Failure> {
        match self.get("limit").map(str::parse::<usize>) {
            // As Prometheus has it, 0 is no limit.
            None | Some(Ok(0)) => Ok(Limit(None)),
            Some(Ok(most)) => Ok(Limit(Some(most))),
            Some(Err(_)) => bad("limit must be a number of series"),
        }
    }

    /// Seconds of the Unix epoch, or RFC 3339.
    fn time(&self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).map(millis);
        match seconds.or_else(|| text.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond())) {
            Some(at_ms) => Ok(Some(at_ms)),
            None => bad(format!("{name} `{}` is neither seconds of the Unix epoch nor RFC 3339", text.escape_debug())),
        }
    }

    fn times(&self) -> Result<Times, Failure> {
        let of = |name| self.time(name)?.map_or_else(|| bad(format!("the parameter {name} is missing")), Ok);
        let (start_ms, end_ms) = (of("start")?, of("end")?);
        let step_ms = self.step()?;
        if end_ms < start_ms {
            return bad("end timestamp must not be before start time");
        }
        if (end_ms - start_ms) / step_ms > i64::try_from(MOST_POINTS).unwrap_or(i64::MAX) {
            return bad("exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)");
        }
        Ok(Times { start_ms, end_ms, step_ms })
    }

    fn step(&self) -> Result<i64, Failure> {
        let text = self.required("step")?;
        let Some(seconds) = text.parse().ok().or_else(|| duration_secs(text)) else {
            return bad(format!("step `{}` is neither seconds nor a duration such as 5m", text.escape_debug()));
        };
        if seconds.is_finite() && millis(seconds) > 0 {
            return Ok(millis(seconds));
        }
        bad("zero or negative query resolution step widths are not accepted. Try a positive integer")
    }

    /// The windows whose samples lie between `start` and `end`; all, where these are not said.
    fn span(&self) -> Result<Span, Failure> {
        let from_ms = self.time("start")?.map_or(0, |start| edge_before(start.saturating_add(WINDOW_MS - 1)) - WINDOW_MS);
        let to_ms = self.time("end")?.map_or(i64::MAX, edge_before);
        Ok(Span { from_ms, to_ms })
    }
}

/// Far times are as far as can be added to without overflow.
fn millis(seconds: f64) -> i64 {
    const FAR: f64 = 1e15;
    #[expect(clippy::cast_possible_truncation, reason = "kept within what an i64 holds")]
    let millis = (seconds * 1000.0).round().clamp(-FAR, FAR) as i64;
    millis
}
