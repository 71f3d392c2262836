//! An answer's permalink gives it again, whatever happens to the server, and in every form.

use serde_json::Value;
use std::time::Duration;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Reply, written};
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;

const EPOCH_BITS: u8 = 7;
const CONFIG: &str = "[counting]\nepoch_bits = 7\n[batch]\nmax_age_ms = 200\nmax_rows = 2000\n";
const ANSWERS: usize = 64;
/// By this answer an epoch has been closed: the sender waits for it.
const CLOSED_BY: usize = 20;
const MANNER: Manner = Manner { batch: 50, clients: 2, persistent: false };
const DEADLINE: Duration = Duration::from_secs(60);

/// An answer as it was given, and where it stays.
struct Taken {
    question: Question,
    answer: Answer,
    link: String,
}

fn take(client: &Client, question: Question) -> Taken {
    let reply = client.get(&question.path(None));
    let link = reply.link.clone().expect("an answer says where it stays");
    Taken { question, answer: Answer::read(&reply.json()), link }
}

/// Asks for an answer that was taken; gives its bytes.
fn again(client: &Client, Taken { question, answer, link }: &Taken, when: &str) -> Vec<u8> {
    let reply = client.get(link);
    assert_eq!(reply.status, 200, "{link} {when}: {}", reply.text());
    assert_eq!(reply.json()["rows"], Value::from(answer.rows()), "{question:?} at {:?} {when}", answer.cut);
    assert_eq!(reply.link.as_deref(), Some(link.as_str()));
    reply.body
}

#[test]
fn a_permalink_gives_an_answer_again_after_epochs_have_closed_and_after_a_kill() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let mut chance = Chance::new("permalinks");
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..16_000];
    let pace = Pace::default();
    let mut taken: Vec<Taken> = std::thread::scope(|scope| {
        let holding = pace.hold();
        scope.spawn(|| by_http(&server.client, lines, MANNER, &pace));
        let mut taken = Vec::new();
        for (n, moment) in chance.moments(ANSWERS, lines.len() / MANNER.batch).into_iter().enumerate() {
            holding.wait_for(moment);
            if n == CLOSED_BY {
                wait::until("an epoch is closed", DEADLINE, || (server.client.status()["reconciliation"]["closed"] != 0).then_some(()));
            }
            taken.push(take(&server.client, Question::any(&mut chance)));
            if n % 7 == 0 {
                again(&server.client, &taken[n], "while events come in");
            }
        }
        drop(holding);
        taken
    });
    // A question that no view covers stays as well.
    taken.push(take(&server.client, Question::by("1d", &["user_id"])));
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    recount.check_all(&taken.iter().map(|taken| (taken.question.clone(), taken.answer.clone())).collect::<Vec<_>>());

    let bytes: Vec<Vec<u8>> = taken.iter().map(|taken| again(&server.client, taken, "when all is sent")).collect();
    server.settled();
    let same = |server: &Server, when: &str| {
        for (taken, bytes) in taken.iter().zip(&bytes) {
            assert!(again(&server.client, taken, when) == *bytes, "{}: other bytes {when}", taken.link);
        }
    };
    same(&server, "when all is closed");
    server.kill();
    let server = site.up();
    same(&server, "after a kill");
    let middle = |taken: &Taken| taken.answer.cut.values().any(|cut| cut % (1 << EPOCH_BITS) > 0);
    let closed = |taken: &Taken| taken.answer.mark.values().any(|mark| *mark > 0);
    figure(
        "permalinks: answers, of which above closed epochs",
        format!("{} and {}", taken.len(), taken.iter().filter(|t| closed(t)).count()),
    );
    assert!(taken.iter().filter(|taken| middle(taken)).count() > ANSWERS / 2, "cuts in the middle of epochs that have been closed since");
    every_form(&server, &taken);
    refusals(&server, &taken[0]);
    server.stop();
}

/// The same numbers in every form, columns as ClickHouse reads them.
fn every_form(server: &Server, taken: &[Taken]) {
    for Taken { question, answer, link } in taken {
        let reply = |form: &str| {
            let reply = server.client.get(&link.replace("/v1/query?", &format!("/v1/query.{form}?")));
            assert_eq!((reply.status, reply.cut.as_deref()), (200, Some(&*written(&answer.cut))), "{form}: {}", reply.text());
            reply
        };
        let rows = Value::from(answer.rows());
        let lines: Vec<Value> = reply("ndjson").text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(Value::from(lines), rows, "{question:?} as NDJSON");
        let csv = reply("csv").text();
        let (header, fields) = csv.split_once("\r\n").expect("a header");
        let texts = |row: &Value| -> Vec<String> {
            let text = |name: &str| match &row[name] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                number => number.to_string(),
            };
            header.split(',').map(text).collect()
        };
        let expected: String = answer.rows().iter().map(|row| texts(row).join(",") + "\r\n").collect();
        assert_eq!(fields, expected, "{question:?} as CSV");
        for (form, name) in [("arrow", "ArrowStream"), ("parquet", "Parquet")] {
            assert_eq!(Value::from(read_by_clickhouse(server, question, name, &reply(form))), rows, "{question:?} as {name}");
        }
    }
}

/// The rows of a body as the engine understands them, in the terms of JSON's rows.
fn read_by_clickhouse(server: &Server, question: &Question, format: &str, reply: &Reply) -> Vec<Value> {
    let window = (question.step != "total").then_some("window DateTime64(3, 'UTC')".to_owned());
    let dimensions = question.group_by.iter().map(|name| format!("{name} String"));
    let counts = ["count", "amount_count"].map(|name| format!("{name} UInt64"));
    let amounts = [("sum", 4), ("min", 4), ("max", 4), ("avg", 6)].map(|(name, scale)| format!("{name} Nullable(Decimal(38, {scale}))"));
    let columns: Vec<String> = window.into_iter().chain(dimensions).chain(counts).chain(amounts).collect();
    server.sql(&format!("CREATE OR REPLACE TABLE columns ({}) ENGINE = Memory", columns.join(", ")));
    let engine = Client::new(server.runtime().clickhouse);
    let statement = form_urlencoded::Serializer::new(String::new())
        .append_pair("database", "tidemark")
        .append_pair("query", &format!("INSERT INTO columns FORMAT {format}"))
        .finish();
    let taken = engine.post(&format!("/?{statement}"), &[], &reply.body);
    assert_eq!(taken.status, 200, "{format}: {}", taken.text());
    let settings = "output_format_json_quote_64bit_integers = 0, output_format_json_quote_decimals = 1, output_format_decimal_trailing_zeros = 1, date_time_output_format = 'iso', max_threads = 1";
    let rows = engine.post("/?database=tidemark", &[], format!("SELECT * FROM columns FORMAT JSONEachRow SETTINGS {settings}").as_bytes());
    assert_eq!(rows.status, 200, "{}", rows.text());
    rows.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What cannot be answered says so.
fn refusals(server: &Server, taken: &Taken) {
    let check = |path: &str, status: u16, says: &str| {
        let reply = server.client.get(path);
        assert!(reply.status == status && reply.text().contains(says), "{path}: {} {}", reply.status, reply.text());
        assert_eq!(reply.content_type, "application/problem+json");
    };
    let cut = written(&taken.answer.cut);
    check("/v1/query?at=0:99999999", 400, "partition 0 ends at offset");
    check("/v1/query?at=7:1", 400, "names partition 7");
    check("/v1/query?at=yesterday", 400, "such as 1/0:1234,3:99");
    check(&format!("/v1/query?at=9/{cut}"), 400, "names generation 9, and the newest is 1");
    check(&format!("/v1/query?at=1/{cut}&last=1h"), 400, "give `from` and `to`");
    check(&format!("/v1/live?at=1/{cut}"), 400, "nothing is pushed of an answer that stays the same");
}
