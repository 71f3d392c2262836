//! `/api/v1`: Prometheus's clients get the numbers of `/v1/query`, at the same cut; and Prometheus's own engine, given the
//! same samples, gives the same answers.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Reply, written};
use tidemark_tests::data;
use tidemark_tests::doors;
use tidemark_tests::figure::figure;
use tidemark_tests::foreign::node;
use tidemark_tests::freshness::quantile;
use tidemark_tests::question::{Question, WINDOW_MS};
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};

/// Small epochs, so that most of the answers come from both layers.
const CONFIG: &str = "[counting]\nepoch_bits = 10\n[batch]\nmax_age_ms = 200\n";
const MANNER: Manner = Manner { batch: 100, clients: 1, persistent: true };
const EVENTS: usize = 6_000;
const QUESTIONS: usize = 60;
const HOUR_MS: i64 = 12 * WINDOW_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const JANUARY_MS: i64 = 1_356_998_400_000;

/// Values by labels and time.
type Numbers = BTreeMap<(BTreeMap<String, String>, i64), f64>;

fn with_flights() -> (Site, Server) {
    let (site, january) = (Site::new(CONFIG), data::bytes("flights-2013-01.late.ndjson.gz"));
    let server = site.up();
    by_http(&server.client, &data::lines(&january)[..EVENTS], MANNER, &Pace::free());
    server.settled();
    (site, server)
}

/// Asks by a form, as Grafana does.
fn ask(client: &Client, resource: &str, parameters: &[(&str, String)]) -> Reply {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    client.post(&format!("/api/v1/{resource}"), &[("content-type", "application/x-www-form-urlencoded")], form.as_bytes())
}

fn seconds(ms: i64) -> String {
    (ms / 1000).to_string()
}

#[expect(clippy::cast_possible_truncation, reason = "a time of this century")]
fn milliseconds(secs: f64) -> i64 {
    (secs * 1000.0).round() as i64
}

/// What the result of a query says.
fn numbers(result: &Value) -> Numbers {
    let labels = |series: &Value| serde_json::from_value::<BTreeMap<String, String>>(series["metric"].clone()).expect("labels");
    let point = |point: &Value| {
        (milliseconds(point[0].as_f64().expect("a time")), point[1].as_str().expect("a value").parse::<f64>().expect("a float"))
    };
    let mut numbers = Numbers::new();
    for series in result.as_array().expect("series") {
        let points = series["values"].as_array().cloned().unwrap_or_else(|| vec![series["value"].clone()]);
        numbers.extend(points.iter().map(point).map(|(at_ms, value)| ((labels(series), at_ms), value)));
    }
    numbers
}

/// What `/v1/query` says of a measure, a bucket's number standing at its end.
fn expected(question: &Question, rows: &[Value], measure: &str, width_ms: i64, to_ms: i64) -> Numbers {
    let number = |row: &Value| {
        let labels = question.group_by.iter().map(|name| ((*name).to_owned(), row[*name].as_str().expect("a value").to_owned()));
        let window: Option<jiff::Timestamp> = row["window"].as_str().map(|text| text.parse().expect("a time"));
        let value = match &row[measure] {
            Value::String(text) => text.parse().expect("a decimal"),
            other => other.as_f64()?,
        };
        Some(((labels.filter(|(_, value)| !value.is_empty()).collect(), window.map_or(to_ms, |at| at.as_millisecond() + width_ms)), value))
    };
    rows.iter().filter_map(number).collect()
}

/// A question's measure in Prometheus's words.
fn promql(question: &Question, measure: &str, width_ms: i64) -> String {
    let mut values: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    question.filters.iter().for_each(|(dimension, value)| values.entry(dimension).or_default().push(value.replace('-', "\\\\-")));
    let matchers: Vec<String> = values.iter().map(|(dimension, values)| format!("{dimension}=~\"{}\"", values.join("|"))).collect();
    let (matchers, by, range) = (matchers.join(","), question.group_by.join(","), format!("[{}m]", width_ms / 60_000));
    let increase = |metric: &str| format!("sum by ({by}) (increase({metric}{{{matchers}}}{range}))");
    match measure {
        "count" => increase("tidemark_events_total"),
        "amount_count" => increase("tidemark_amount_count_total"),
        "sum" => increase("tidemark_amount_sum_total"),
        "avg" => format!("{} / {}", increase("tidemark_amount_sum_total"), increase("tidemark_amount_count_total")),
        least_or_most => {
            format!("{least_or_most} by ({by}) ({least_or_most}_over_time(tidemark_amount_{least_or_most}{{{matchers}}}{range}))")
        }
    }
}

#[track_caller]
fn check_equal(found: &Numbers, expected: &Numbers, query: &str) {
    // Averages have six decimals there.
    let is_close = |value: &f64, number: &f64| value == number || (query.contains(" / ") && (value - number).abs() <= 5.1e-7);
    let same = expected.iter().all(|(key, number)| found.get(key).is_some_and(|value| is_close(value, number)));
    assert!(found.len() == expected.len() && same, "{query}: {found:?} instead of {expected:?}");
}

/// Questions about January, some of them with buckets; their ranges are made of whole ones.
fn questions() -> impl Iterator<Item = (Question, i64, i64, i64)> {
    let mut chance = Chance::new("prometheus");
    std::iter::from_fn(move || Some(Question::any(&mut chance))).filter_map(|mut question| {
        let width_ms = match question.step {
            "total" => 0,
            "5m" => WINDOW_MS,
            "15m" => 3 * WINDOW_MS,
            "1h" => HOUR_MS,
            "1d" => DAY_MS,
            _ => return None,
        };
        let (from_ms, to_ms, unit_ms) = (question.from_ms?, question.to_ms?, width_ms.max(WINDOW_MS));
        let (from_ms, to_ms) = (from_ms - from_ms.rem_euclid(unit_ms), to_ms + (-to_ms).rem_euclid(unit_ms));
        (question.top, question.zone, question.from_ms, question.to_ms) = (None, None, Some(from_ms), Some(to_ms));
        Some((question, from_ms, to_ms, width_ms))
    })
}

/// One server for all that reads the same flights and changes nothing.
#[test]
fn numbers_are_those_of_v1_for_its_own_clients_and_for_prometheus_itself() {
    let (site, server) = with_flights();
    the_same_questions_have_the_same_numbers_at_the_same_cut(&server);
    its_own_clients_are_answered(&server);
    prometheus_itself_answers_the_same(&site, &server);
    server.stop();
}

fn the_same_questions_have_the_same_numbers_at_the_same_cut(server: &Server) {
    let raw = Question { from_ms: Some(JANUARY_MS), to_ms: Some(JANUARY_MS + DAY_MS), ..Question::by("total", &["user_id"]) };
    let raw = (raw, JANUARY_MS, JANUARY_MS + DAY_MS, 0);
    let mut compared = 0;
    for (question, from_ms, to_ms, width_ms) in questions().take(QUESTIONS).chain([raw]) {
        let answer = question.ask(&server.client, None);
        doors::check(&server.client, &question, &answer);
        for measure in ["count", "amount_count", "sum", "avg", "min", "max"] {
            let query = promql(&question, measure, if width_ms == 0 { to_ms - from_ms } else { width_ms });
            let reply = if width_ms == 0 {
                ask(&server.client, "query", &[("query", query.clone()), ("time", seconds(to_ms))])
            } else {
                let range = [("start", seconds(from_ms + width_ms)), ("end", seconds(to_ms)), ("step", seconds(width_ms))];
                ask(&server.client, "query_range", &[&[("query", query.clone())], &range[..]].concat())
            };
            assert_eq!(reply.status, 200, "{query}: {}", reply.text());
            assert_eq!(reply.cut.as_ref(), Some(&written(&answer.cut)), "{query}");
            let found = numbers(&reply.json()["data"]["result"]);
            let mut wanted = expected(&question, &answer.rows(), measure, width_ms, to_ms);
            if question.group_by.is_empty() && matches!(measure, "count" | "amount_count") {
                // A count of everything is 0 where nothing is, which `/v1/query` leaves out.
                let ends = (1..).map(|n| from_ms + n * width_ms).take_while(|end| width_ms > 0 && *end <= to_ms);
                ends.for_each(|end| _ = wanted.entry((BTreeMap::new(), end)).or_insert(0.0));
            }
            check_equal(&found, &wanted, &query);
            compared += wanted.len();
        }
    }
    figure("numbers of /api/v1 compared with those of /v1/query", compared);
    how_soon(server);
}

/// A panel of a day is answered as soon as the same question is. Neither has been asked before: the one asks for all measures.
fn how_soon(server: &Server) {
    let (mut by_question, mut by_panel) = (Vec::new(), Vec::new());
    for day in 0..20 {
        let (from_ms, to_ms) = (JANUARY_MS + day * HOUR_MS, JANUARY_MS + day * HOUR_MS + DAY_MS);
        let began = Instant::now();
        Question { from_ms: Some(from_ms), to_ms: Some(to_ms), ..Question::by("5m", &["event_type"]) }.ask(&server.client, None);
        by_question.push(began.elapsed());
        let began = Instant::now();
        let range = [("start", seconds(from_ms)), ("end", seconds(to_ms)), ("step", "300".to_owned())];
        let query = ("query", "sum by (event_type) (increase(tidemark_events_total[5m]))".to_owned());
        assert_eq!(ask(&server.client, "query_range", &[&[query], &range[..]].concat()).status, 200);
        by_panel.push(began.elapsed());
    }
    by_question.sort();
    by_panel.sort();
    let of = |took: &[_]| format!("{:.1?}, {:.1?}", quantile(took, 0.5), quantile(took, 1.0));
    figure("24 h by 5 minutes and event_type, p50 and slowest: /v1/query", of(&by_question));
    figure("24 h by 5 minutes and event_type, p50 and slowest: /api/v1/query_range", of(&by_panel));
}

/// What `tests/node/prometheus.js` says of a query's series.
fn points(series: &Value) -> Numbers {
    let mut points = Numbers::new();
    for series in series.as_array().expect("series") {
        let labels: BTreeMap<String, String> = serde_json::from_value(series["labels"].clone()).expect("labels");
        for point in series["values"].as_array().expect("values") {
            points.insert((labels.clone(), point[0].as_i64().expect("milliseconds")), point[1].as_f64().expect("a value"));
        }
    }
    points
}

/// Runs promtool against a server, or with a file.
fn promtool(arguments: &[&str]) -> String {
    let done = Command::new("promtool").args(arguments).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("promtool: {error}; scripts/install-for-tests.sh promtool=prometheus"));
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "promtool {arguments:?}: {}", &text[..text.len().min(4_000)]);
    text
}

fn its_own_clients_are_answered(server: &Server) {
    let url = &server.client.url;
    let day = Question { from_ms: Some(JANUARY_MS), to_ms: Some(JANUARY_MS + DAY_MS), ..Question::by("total", &["event_type"]) };
    let total = expected(&day, &day.ask(&server.client, None).rows(), "count", 0, JANUARY_MS + DAY_MS);
    let hours = Question { step: "1h", ..day.clone() };
    let hourly = expected(&hours, &hours.ask(&server.client, None).rows(), "count", HOUR_MS, 0);
    let (by_day, by_hour) = (promql(&day, "count", DAY_MS), promql(&day, "count", HOUR_MS));
    let (start, end) = ("2013-01-01T01:00:00Z", "2013-01-02T00:00:00Z");
    assert!(total.len() > 10 && hourly.len() > 100);

    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    check_equal(&numbers(&json(&promtool(&["query", "-o", "json", "instant", url, &by_day, "--time", end]))), &total, "promtool");
    let ranged = ["query", "-o", "json", "range", url, &by_hour, "--start", start, "--end", end, "--step", "1h"];
    check_equal(&numbers(&json(&promtool(&ranged))), &hourly, "promtool");
    let types: Vec<&str> = total.keys().map(|(labels, _)| labels["event_type"].as_str()).collect();
    // Without a range it would ask for the last five minutes.
    let of_january = ["query", "labels", url, "event_type", "--start", start, "--end", "2013-02-01T00:00:00Z"];
    assert_eq!(promtool(&of_january).lines().collect::<Vec<_>>(), all_types(server));
    let series = promtool(&["query", "series", url, "--match", "tidemark_events{event_type=~\"U.\"}", "--start", start, "--end", end]);
    assert!(series.lines().count() > 20 && series.lines().all(|line| line.contains("event_type=\"U")), "{series}");

    let selector = format!("tidemark_events{{event_type=\"{}\"}}", types[0]);
    let (from_ms, to_ms) = (JANUARY_MS + HOUR_MS, JANUARY_MS + DAY_MS);
    let questions = json!({
        "instant": by_day, "range": by_hour, "selector": selector, "from": from_ms, "to": to_ms, "step": HOUR_MS / 1000,
    });
    let understood = node(&["tests/node/prometheus.js", url, &questions.to_string()]);
    check_equal(&points(&understood["instant"]), &total, "prometheus-query");
    check_equal(&points(&understood["range"]), &hourly, "prometheus-query");
    let series = understood["series"].as_array().expect("series");
    assert!(!series.is_empty() && series.iter().all(|labels| labels["event_type"] == types[0]), "{series:?}");
    assert_eq!(understood["values"], json!([types[0]]));
    assert_eq!(understood["names"], json!(["__name__", "event_type", "product_id"]));
    let metadata = &understood["metadata"];
    assert_eq!((&metadata["tidemark_events_total"][0]["type"], metadata.as_object().map(Map::len)), (&json!("counter"), Some(9)));
    assert_eq!(understood["buildinfo"]["version"], "3.0.0");
}

fn all_types(server: &Server) -> Vec<String> {
    let rows = Question::by("total", &["event_type"]).ask(&server.client, None).rows();
    rows.iter().map(|row| row["event_type"].as_str().expect("a type").to_owned()).collect()
}

/// What Prometheus's own engine is asked, with the samples that `/v1/query` says there are: for instants within windows,
/// since its version decides on which side a range is open.
const EXPRESSIONS: [&str; 19] = [
    "tidemark_events{event_type=\"UA\"}",
    "tidemark_events{event_type!~\"U.|D.|A.*|B6\",product_id=~\"LGA-.*\"}",
    "tidemark_events offset 35m",
    "sum(tidemark_events)",
    "sum by (event_type) (tidemark_amount_sum)",
    "sum without (product_id) (sum_over_time(tidemark_events[2h]))",
    "max by (event_type) (max_over_time(tidemark_amount_max[1h]))",
    "min(min_over_time(tidemark_amount_max[1h]))",
    "count by (event_type) (count_over_time(tidemark_events[3h]))",
    "count_over_time(tidemark_events{event_type=\"DL\"}[3h])",
    "last_over_time(tidemark_events{event_type=\"DL\"}[3h])",
    "topk(5, sum by (product_id) (sum_over_time(tidemark_events[6h])) + 0.001 * sum by (product_id) (sum_over_time(tidemark_amount_sum[6h])))",
    "sum by (event_type) (sum_over_time(tidemark_amount_sum[4h])) / sum by (event_type) (sum_over_time(tidemark_events[4h]))",
    "sum by (event_type) (sum_over_time(tidemark_events[1h])) > 5",
    "sum by (event_type) (sum_over_time(tidemark_events[1h])) >= bool 5",
    "sum by (event_type) (tidemark_events) or sum by (event_type) (sum_over_time(tidemark_events[5h])) * -1",
    "sum by (event_type) (sum_over_time(tidemark_events[5h])) unless sum by (event_type) (tidemark_events)",
    "tidemark_events * ignoring (__name__) tidemark_amount_max and tidemark_events > 0",
    "vector(1) + time() - time()",
];
const HOURS: i64 = 7;

fn prometheus_itself_answers_the_same(site: &Site, server: &Server) {
    // A time at which flights leave.
    let base_ms = JANUARY_MS + DAY_MS + 12 * HOUR_MS;
    let mut test = String::from("evaluation_interval: 5m\ntests:\n- interval: 5m\n  input_series:\n");
    for (metric, measure) in [("tidemark_events", "count"), ("tidemark_amount_sum", "sum"), ("tidemark_amount_max", "max")] {
        push_series(&mut test, server, base_ms, metric, measure);
    }
    test.push_str("  promql_expr_test:\n");
    let mut samples = 0;
    for expression in EXPRESSIONS {
        for after_ms in [6 * HOUR_MS + 1_000, 6 * HOUR_MS + 299_000, HOURS * HOUR_MS - 150_000] {
            let at_ms = base_ms + after_ms;
            let reply = ask(&server.client, "query", &[("query", expression.to_owned()), ("time", seconds(at_ms))]);
            assert_eq!(reply.status, 200, "{expression}: {}", reply.text());
            let _ = write!(test, "  - expr: {}\n    eval_time: {}s\n    exp_samples:\n", json!(expression), after_ms / 1000);
            for ((labels, _), value) in numbers(&reply.json()["data"]["result"]) {
                let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", json!(value))).collect();
                let _ = writeln!(test, "    - {{labels: {}, value: {value}}}", json!(format!("{{{}}}", labels.join(","))));
                samples += 1;
            }
        }
    }
    promtool(&["test", "rules", &site.file("same.test.yml", &test).display().to_string()]);
    assert!(samples > 400, "{samples}");
    figure("samples that Prometheus's own engine gives the same values", samples);
}

/// The samples of a metric, each window's at its end, as promtool takes them.
fn push_series(test: &mut String, server: &Server, base_ms: i64, metric: &str, measure: &str) {
    let (from_ms, to_ms) = (base_ms - WINDOW_MS, base_ms + HOURS * HOUR_MS);
    let question = Question { from_ms: Some(from_ms), to_ms: Some(to_ms), ..Question::by("5m", &["event_type", "product_id"]) };
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
    let windows = usize::try_from((to_ms - from_ms) / WINDOW_MS).expect("few");
    for ((labels, at_ms), value) in expected(&question, &question.ask(&server.client, None).rows(), measure, WINDOW_MS, 0) {
        let values = series.entry(labels).or_insert_with(|| vec!["_".to_owned(); windows]);
        values[usize::try_from((at_ms - base_ms) / WINDOW_MS).expect("within")] = value.to_string();
    }
    for (labels, values) in series {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", json!(value))).collect();
        let _ =
            writeln!(test, "  - {{series: {}, values: {}}}", json!(format!("{metric}{{{}}}", labels.join(","))), json!(values.join(" ")));
    }
}

/// While events come in, the parts of a query are of one cut.
#[test]
fn a_query_is_of_one_cut() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let stop = AtomicBool::new(false);
    let all = "sum(increase(tidemark_events_total[31d]))";
    let parts =
        "sum(increase(tidemark_events_total{event_type=~\"U.\"}[31d])) + sum(increase(tidemark_events_total{event_type!~\"U.\"}[31d]))";
    let pairs = "sum(sum by (event_type, product_id) (increase(tidemark_events_total[31d])))";
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in data::lines(&january).chunks(50).take_while(|_| !stop.load(Ordering::Relaxed)) {
                by_http(&server.client, batch, MANNER, &Pace::free());
            }
        });
        let (mut cuts, mut last) = (0, String::new());
        while cuts < 100 {
            for query in [format!("{all} - ({parts})"), format!("{all} - {pairs}")] {
                let reply = ask(&server.client, "query", &[("query", query.clone()), ("time", seconds(JANUARY_MS + 31 * DAY_MS))]);
                assert_eq!(reply.status, 200, "{}", reply.text());
                assert_eq!(reply.json()["data"]["result"][0]["value"][1], "0", "{query}: {}", reply.text());
                let cut = reply.cut.expect("a cut");
                cuts += usize::from(cut != last);
                last = cut;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    server.stop();
}

#[test]
fn grafana_finds_what_it_asks_for_and_mistakes_are_told() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let client = &server.client;
    // Its health check, and what it asks before anybody has sent anything.
    let health = client.got("/api/v1/query?query=1%2B1&time=4");
    assert_eq!(health, json!({"status": "success", "data": {"resultType": "scalar", "result": [4, "2"]}}));
    assert_eq!(client.got("/api/v1/query?query=vector(1)&time=4")["data"]["result"], json!([{"metric": {}, "value": [4, "1"]}]));
    let range = client.got("/api/v1/query_range?query=vector(1)&start=0&end=600&step=5m")["data"].clone();
    assert_eq!(range["result"][0]["values"], json!([[0, "1"], [300, "1"], [600, "1"]]));
    assert_eq!(client.got("/api/v1/query?query=%22text%22&time=4")["data"], json!({"resultType": "string", "result": [4, "text"]}));
    assert_eq!(client.got("/api/v1/series?match[]=tidemark_events")["data"], json!([]));
    assert_eq!(client.got("/api/v1/label/event_type/values")["data"], json!([]));
    assert_eq!(client.got("/api/v1/label/__name__/values")["data"].as_array().map(Vec::len), Some(9));
    assert_eq!(client.got("/api/v1/labels?match[]=tidemark_events")["data"], json!(["__name__", "event_type", "product_id"]));
    assert_eq!(client.got("/api/v1/metadata?metric=tidemark_events")["data"].as_object().map(Map::len), Some(1));

    // What has just been sent is in an answer that waits for it; the window that is not over yet, by looking ahead.
    let event = br#"{"event_id":"a","event_type":"seen","timestamp":"2013-01-01T10:17:00Z","order_amount":2.5}"#;
    let position = client.post("/v1/events", &[("content-type", "application/json")], event).json()["position"].clone();
    let position = position.as_str().expect("a position");
    let at = |query: &str, time: &str| {
        let reply = ask(client, "query", &[("query", query.to_owned()), ("time", time.to_owned()), ("at_least", position.to_owned())]);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let seen = at("tidemark_amount_avg", "2013-01-01T10:20:00Z");
    assert_eq!(
        seen["data"]["result"],
        json!([{"metric": {"__name__": "tidemark_amount_avg", "event_type": "seen"}, "value": [1_357_035_600, "2.5"]}])
    );
    assert_eq!(seen["infos"], Value::Null);
    assert_eq!(at("tidemark_events", "2013-01-01T10:19:59Z")["data"]["result"], json!([]));
    let ahead = at("tidemark_events offset -5m", "2013-01-01T10:19:59Z");
    assert_eq!(ahead["data"]["result"][0]["value"][1], "1");
    assert!(ahead["infos"][0].as_str().expect("a remark").contains("the last one ends at 2013-01-01T10:20:00.000Z"), "{ahead}");
    let nothing = at("no_such_metric + 1", "2013-01-01T11:00:00Z");
    assert_eq!(nothing["data"]["result"], json!([]));
    assert!(nothing["warnings"][0].as_str().expect("a warning").contains("there is no metric no_such_metric"), "{nothing}");
    let samples = at("tidemark_events[1h]", "2013-01-01T11:00:00Z")["data"].clone();
    assert_eq!((samples["resultType"].as_str(), &samples["result"][0]["values"]), (Some("matrix"), &json!([[1_357_035_600, "1"]])));

    for (path, status, kind, says) in [
        ("query?query=sum(", 400, "bad_data", "unclosed left parenthesis"),
        ("query", 400, "bad_data", "the parameter query is missing"),
        ("query?query=1&time=yesterday", 400, "bad_data", "neither seconds"),
        ("query?query=1&limit=-1", 400, "bad_data", "number of series"),
        ("query?query=tidemark_events&at_least=7", 400, "bad_data", "partition:next-offset"),
        ("query?query=tidemark_events&at_least=0:99999&timeout_ms=1", 503, "timeout", "has not been reached"),
        ("query?query=tidemark_events_total", 422, "execution", "is a counter"),
        ("query?query=rate(tidemark_events_total[1m])", 422, "execution", "whole 5-minute windows"),
        ("query_range?query=1&start=0&end=1&step=0", 400, "bad_data", "zero or negative"),
        ("query_range?query=1&start=5&end=1&step=1", 400, "bad_data", "must not be before"),
        ("query_range?query=1&start=0&end=11001&step=1", 400, "bad_data", "11,000 points"),
        ("query_range?query=tidemark_events[5m]&start=0&end=1&step=1", 400, "bad_data", "no value at each point"),
        ("series", 400, "bad_data", "no match[]"),
        ("series?match[]=1", 400, "bad_data", "is not a selector"),
    ] {
        let reply = client.get(&format!("/api/v1/{path}"));
        let told = reply.json();
        assert_eq!((reply.status, &told["status"], &told["errorType"]), (status, &json!("error"), &json!(kind)), "{path}: {told}");
        assert!(told["error"].as_str().expect("words").contains(says), "{path}: {told}");
    }
    server.stop();
}
