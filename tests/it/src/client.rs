//! Tidemark's HTTP interface, as a client sees it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than any answer may take: a query waits up to a minute for a position.
const PATIENCE: Duration = Duration::from_secs(120);

/// Next offset per partition.
pub type Position = BTreeMap<u32, u64>;

/// `0:12,3:7`, as it is written in requests and answers.
pub fn written(position: &Position) -> String {
    let pairs: Vec<String> = position.iter().map(|(partition, next)| format!("{partition}:{next}")).collect();
    pairs.join(",")
}

/// Reads it back, and keeps the larger of two.
pub fn raise(position: &mut Position, text: &str) {
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (partition, next) = pair.split_once(':').unwrap_or_else(|| panic!("`{text}` is not a position"));
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("`{pair}` is not partition:offset"));
        let (partition, next): (u64, u64) = (number(partition), number(next));
        let at = position.entry(u32::try_from(partition).expect("a partition is a u32")).or_default();
        *at = next.max(*at);
    }
}

/// What came back, whatever the status.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    /// The ETag.
    pub tag: Option<String>,
    /// `tidemark-cut`.
    pub cut: Option<String>,
    /// Where the link with `rel="permalink"` leads.
    pub link: Option<String>,
    /// Seconds.
    pub retry_after: Option<u64>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the answer is not JSON ({error}): {} {}", self.status, self.text()))
    }
}

/// No answer: nobody listens, or the connection broke.
#[derive(Clone, Debug)]
pub struct NoAnswer(pub String);

/// Values of metrics by name and labels, as the text has them.
pub type Samples = BTreeMap<String, f64>;

/// Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    pub url: String,
    /// The password that the address has.
    key: Option<String>,
}

impl Client {
    pub fn new(url: impl Into<String>) -> Self {
        Self::with_timeout(url, PATIENCE)
    }

    /// One that waits no longer than this for any answer.
    pub fn with_timeout(url: impl Into<String>, timeout: Duration) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build().into();
        let url = url.into();
        match url.split_once('@').and_then(|(named, place)| Some((named.rsplit_once(':')?.1.to_owned(), format!("http://{place}")))) {
            Some((key, url)) => Self { agent, url, key: Some(key) },
            None => Self { agent, url, key: None },
        }
    }

    pub fn try_get(&self, path: &str) -> Result<Reply, NoAnswer> {
        self.try_get_with(path, &[])
    }

    pub fn try_get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply, NoAnswer> {
        let request = self.agent.get(format!("{}{path}", self.url));
        reply(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).call())
    }

    /// An answer that goes on and on; it must begin with success.
    pub fn stream(&self, path: &str, headers: &[(&str, &str)]) -> impl std::io::Read + use<> {
        let request = self.agent.get(format!("{}{path}", self.url));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.call().unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert_eq!(answer.status(), 200, "GET {path}");
        answer.into_body().into_reader()
    }

    pub fn try_post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, NoAnswer> {
        let key = self.key.as_ref().map(|key| ("x-clickhouse-key", key.as_str()));
        let request = headers
            .iter()
            .chain(&key)
            .fold(self.agent.post(format!("{}{path}", self.url)), |request, (name, value)| request.header(*name, *value));
        reply(request.send(body))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {}", error.0))
    }

    /// A GET that must succeed.
    pub fn got(&self, path: &str) -> Value {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        reply.json()
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_post(path, headers, body).unwrap_or_else(|error| panic!("POST {path}: {}", error.0))
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> Samples {
        let reply = self.get("/metrics");
        assert_eq!((reply.status, &*reply.content_type), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
        let text = reply.text();
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("`{line}` is not a sample"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("`{line}` has no number")))
        };
        let all: Vec<(String, f64)> = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        let samples: Samples = all.iter().cloned().collect();
        assert_eq!(samples.len(), all.len(), "a sample is there twice:\n{text}");
        samples
    }

    /// Asks a ClickHouse: lines of tab-separated text.
    pub fn try_sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String> {
        let reply = self.try_post("/?database=tidemark", &[], statement.as_bytes()).map_err(|error| error.0)?;
        let rows = || reply.text().lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
        if reply.status == 200 { Ok(rows()) } else { Err(format!("{statement}: {}", reply.text())) }
    }

    pub fn status(&self) -> Value {
        self.got("/v1/status")
    }

    /// `speed` or `batch`, `pause` or `resume`.
    pub fn steer(&self, layer: &str, action: &str) {
        let reply = self.post(&format!("/v1/layers/{layer}/{action}"), &[], b"");
        assert_eq!(reply.status, 200, "{action} {layer}: {}", reply.text());
    }

    /// Every dead letter, over all pages.
    pub fn dead_letters(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut path = "/v1/dead-letters?limit=1000".to_owned();
        loop {
            let page = self.got(&path);
            all.extend(page["dead_letters"].as_array().expect("dead_letters is an array").iter().cloned());
            match page["next"].as_str() {
                Some(next) => path = format!("/v1/dead-letters?limit=1000&before={next}"),
                None => return all,
            }
        }
    }
}

fn reply(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, NoAnswer> {
    let mut answer = answer.map_err(|error| NoAnswer(error.to_string()))?;
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (content_type, tag, cut) = (header("content-type").unwrap_or_default(), header("etag"), header("tidemark-cut"));
    let link = header("link").and_then(|link| Some(link.strip_prefix('<')?.strip_suffix(">; rel=\"permalink\"")?.to_owned()));
    let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
    let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().map_err(|error| NoAnswer(error.to_string()))?;
    Ok(Reply { status: answer.status().as_u16(), content_type, tag, cut, link, retry_after, body })
}
