//! A listener to `/v1/live`, as any client of server-sent events: it holds the answer, applies what it is told, and when it is
//! cut off comes back with the id of the last event.

use crate::client::Client;
use crate::question::{Answer, Question};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};

/// One event.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub kind: String,
    pub id: Option<String>,
    pub data: Value,
}

/// What a listener holds, and all that it has held.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    question: Question,
    rows: BTreeMap<Vec<String>, Value>,
    pub last_id: Option<String>,
    /// The answer that it held at each id.
    pub held: Vec<(Question, Answer)>,
    /// Events by kind.
    pub told: BTreeMap<String, usize>,
}

impl Listener {
    pub fn new(client: &Client, question: Question) -> Self {
        let (client, rows, held, told) = (client.clone(), BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { client, question, rows, last_id: None, held, told }
    }

    /// The next connection is to another server.
    pub fn go_to(&mut self, client: &Client) {
        self.client = client.clone();
    }

    /// Connects, hears so many events, and is cut off. Fewer, if the stream ends before.
    pub fn hear(&mut self, events: usize) -> Vec<Told> {
        let path = self.question.path(None).replace("/v1/query?", "/v1/live?");
        let last_id = self.last_id.clone();
        let headers: Vec<(&str, &str)> = last_id.iter().map(|id| ("last-event-id", id.as_str())).collect();
        let mut told = Vec::new();
        let client = self.client.clone();
        client.listen(&path, &headers, |event| {
            self.apply(&event);
            told.push(event);
            told.len() < events
        });
        told
    }

    fn apply(&mut self, told: &Told) {
        *self.told.entry(told.kind.clone()).or_default() += 1;
        let Told { kind, id, data } = told;
        match kind.as_str() {
            "snapshot" => self.rows.clear(),
            "change" => {}
            _ => return,
        }
        for row in data["rows"].as_array().expect("rows") {
            assert_eq!((row["revision"].as_u64(), row["final"].is_boolean()), (row["count"].as_u64(), true), "{row}");
            self.rows.insert(self.key(row), row.clone());
        }
        for row in data["gone"].as_array().expect("gone") {
            assert!(self.rows.remove(&self.key(row)).is_some(), "what was never there is gone: {row}");
        }
        self.last_id.clone_from(id);
        let rows: Vec<&Value> = self.rows.values().collect();
        let whole = json!({"rows": rows, "cut": data["cut"], "mark": data["mark"], "end": data["end"], "generation": data["generation"], "exact": data["exact"]});
        self.held.push((self.question.clone(), Answer::read(&whole)));
    }

    fn key(&self, row: &Value) -> Vec<String> {
        let names = std::iter::once("window").chain(self.question.group_by.iter().copied());
        names.filter_map(|name| row[name].as_str()).map(str::to_owned).collect()
    }
}

impl Client {
    /// Listens until `hear` has heard enough, or the stream ends. A comment is nothing to hear.
    pub fn listen(&self, path: &str, headers: &[(&str, &str)], mut hear: impl FnMut(Told) -> bool) {
        let lines = BufReader::new(self.stream(path, headers)).lines();
        let mut told = Told::default();
        for line in lines.map_while(Result::ok) {
            if line.is_empty() {
                let event = std::mem::take(&mut told);
                if !event.kind.is_empty() && !hear(event) {
                    return;
                }
                continue;
            }
            match line.split_once(": ") {
                Some(("event", kind)) => kind.clone_into(&mut told.kind),
                Some(("id", id)) => told.id = Some(id.to_owned()),
                Some(("data", data)) => told.data = serde_json::from_str(data).expect("data is JSON"),
                _ => {}
            }
        }
    }
}
