//! An answer as it is sent: in one of several forms, with the headers that name it.

use crate::answer::{Answer, Source, csv, json, json_end, lines};
use crate::columnar::{arrow, parquet};
use crate::packed::{Coding, Packed, SMALLEST};
use crate::plan::{Plan, pinned};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::sync::OnceLock;
use std::time::Duration;
use tidemark_core::cut::Cut;
use tidemark_https::admission::Taken;

pub(crate) const CUT: HeaderName = HeaderName::from_static("tidemark-cut");
pub(crate) const MARK: HeaderName = HeaderName::from_static("tidemark-mark");
pub(crate) const GENERATION: HeaderName = HeaderName::from_static("tidemark-generation");
pub(crate) const REVISION: HeaderName = HeaderName::from_static("tidemark-history-revision");

/// A permalink that is longer is left out: few clients take headers of any length.
const LONGEST_LINK: usize = 4096;

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    Json,
    Csv,
    /// A row a line, each as JSON has it.
    Lines,
    /// An Arrow IPC stream.
    Arrow,
    Parquet,
}

impl Form {
    pub const ALL: [Self; 5] = [Self::Json, Self::Csv, Self::Lines, Self::Arrow, Self::Parquet];

    /// By the name that a client knows it by, as a header has it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Lines => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Where it is the only one.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Json => "/v1/query",
            Self::Csv => "/v1/query.csv",
            Self::Lines => "/v1/query.ndjson",
            Self::Arrow => "/v1/query.arrow",
            Self::Parquet => "/v1/query.parquet",
        }
    }
}

/// What a query is answered with. Of the JSON of an answer that is not pinned the end is added when it is sent, with
/// `took_ms`; all else is a function of the generation, the cut, the query and the form.
#[derive(Debug)]
pub struct Written {
    pub(crate) cut: Cut,
    pub(crate) mark: Cut,
    pub(crate) end: Cut,
    pub(crate) revision: u64,
    pub(crate) source: Source,
    form: Form,
    tag: Tag,
    /// All headers that are the same however it is sent.
    headers: HeaderMap,
    pub(crate) head: Bytes,
    /// What the head takes, of the bound for all answers.
    #[expect(dead_code, reason = "held, not read")]
    memory: Option<Taken>,
    /// The head by each coding that somebody has wanted.
    packed: [OnceLock<Packed>; Coding::ALL.len()],
}

/// What names an answer's bytes, or, where it is weak, what they count.
#[derive(Clone, Debug)]
struct Tag {
    is_weak: bool,
    text: String,
}

impl Tag {
    /// The same bytes for the same generation, cut and query; of what others wrote, for the same version of them.
    fn new(plan: &Plan, answer: &Answer, form: Form) -> Self {
        let measures: Vec<&str> = plan.measures.iter().map(|m| m.name()).collect();
        let Answer { generation, cut, revision, source, .. } = answer;
        let is_pinned = *source == Source::Pinned;
        let version = env!("CARGO_PKG_VERSION");
        let since = plan.at.as_ref().map_or(0, |at| at.revision);
        let content = format!(
            "{generation}.{revision}-{since}|{cut}|{:?}|{}|{}|{form:?}|{is_pinned}|{version}",
            plan.top,
            measures.join(","),
            plan.identity
        );
        // An answer's JSON says `end` and `took_ms`, which differ between two that count the same events.
        Self { is_weak: form == Form::Json && !is_pinned, text: format!("{:032x}", tidemark_core::event::id_hash(&content)) }
    }

    /// Bytes that are encoded are other bytes.
    fn header(&self, coding: Option<Coding>) -> HeaderValue {
        let text = match (self.is_weak, coding) {
            (true, _) => format!("W/\"{}\"", self.text),
            (false, None) => format!("\"{}\"", self.text),
            (false, Some(coding)) => format!("\"{}-{}\"", self.text, coding.name()),
        };
        HeaderValue::try_from(text).expect("hexadecimal digits")
    }

    /// Whether a client says that it has this, however encoded (RFC 9110, 13.1.2: compared weakly).
    fn is_among(&self, known: &HeaderMap) -> bool {
        let opaque = |tag: &str| {
            let text = tag.trim_matches('"');
            let coded = |coding: Coding| {
                text.strip_suffix(coding.name()).and_then(|text| text.strip_suffix('-')).is_some_and(|text| text == self.text)
            };
            text == "*" || text == self.text || Coding::ALL.into_iter().any(coded)
        };
        known_tags(known).any(opaque)
    }
}

/// The tags of bodies that a client has (`If-None-Match`), weak ones as if they were strong.
pub(crate) fn known_tags(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"))
}

impl Written {
    /// The answer to a query, which has an absolute range.
    pub fn new(query: &str, plan: &Plan, answer: Answer, form: Form) -> Self {
        let head: Bytes = match form {
            Form::Json => json(plan, &answer).into(),
            Form::Csv => csv(plan, &answer).into(),
            Form::Lines => lines(plan, &answer).into(),
            Form::Arrow => arrow(plan, &answer).into(),
            Form::Parquet => parquet(plan, &answer).into(),
        };
        let tag = Tag::new(plan, &answer, form);
        let headers = headers(query, &answer, form, &tag);
        let Answer { cut, mark, end, revision, source, mut memory, .. } = answer;
        if let Some(memory) = &mut memory {
            memory.shrink_to(head.len());
        }
        Self { form, tag, headers, head, memory, packed: Default::default(), revision, source, cut, mark, end }
    }

    pub fn is_pinned(&self) -> bool {
        self.source == Source::Pinned
    }

    pub fn is_known(&self, request: &HeaderMap) -> bool {
        self.tag.is_among(request)
    }

    pub fn headers(&self, coding: Option<Coding>) -> HeaderMap {
        let mut headers = self.headers.clone();
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            headers.insert(header::ETAG, self.tag.header(Some(coding)));
        }
        headers
    }

    /// Whether packing it helps: a Parquet file is packed already.
    pub fn is_packable(&self) -> bool {
        self.form != Form::Parquet && self.head.len() >= SMALLEST
    }

    /// What it takes in memory, about, with what it will be packed to.
    pub(crate) fn bytes(&self) -> usize {
        let positions: usize = [&self.cut, &self.mark, &self.end].map(|cut| 24 * cut.iter().len()).iter().sum();
        positions + self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() + self.head.len() * 3 / 2
    }

    /// What comes after the head, for a request that the server has had for so long.
    fn end(&self, took: Duration) -> String {
        if self.form == Form::Json && !self.is_pinned() { json_end(took.as_secs_f64() * 1000.0) } else { String::new() }
    }

    /// The whole body. To pack a large one for the first time takes a while.
    pub fn body(&self, coding: Option<Coding>, took: Duration) -> Bytes {
        let end = self.end(took);
        match coding {
            Some(coding) => self.packed[coding as usize].get_or_init(|| Packed::new(&self.head, coding)).with_end(end.as_bytes()),
            None if end.is_empty() => self.head.clone(),
            None => [&*self.head, end.as_bytes()].concat().into(),
        }
    }
}

fn headers(query: &str, answer: &Answer, form: Form, tag: &Tag) -> HeaderMap {
    let text = |text: String| HeaderValue::try_from(text).expect("digits and punctuation");
    let Answer { cut, mark, generation, revision, source, .. } = answer;
    let mut headers = HeaderMap::with_capacity(10);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(header::ETAG, tag.header(None));
    headers.insert(GENERATION, generation.0.into());
    headers.insert(CUT, text(cut.to_string()));
    if *source != Source::Pinned {
        headers.insert(MARK, text(mark.to_string()));
    }
    if *revision > 0 {
        headers.insert(REVISION, (*revision).into());
    }
    // Late events may come for any window, and an answer at a cut changes where history was damaged and has been repaired. So
    // whoever keeps an answer asks whether it still is one, which is answered without counting.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let link = format!("<{}?{}>; rel=\"permalink\"", form.path(), pinned(query, *generation, *revision, cut));
    if link.len() <= LONGEST_LINK {
        headers.insert(header::LINK, HeaderValue::try_from(link).expect("a query that is written anew is ASCII"));
    }
    headers
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::tests::planned;
    use tidemark_core::generation::Generation;

    pub(crate) fn written(query: &str, cut: &str, source: Source, form: Form) -> Written {
        let plan = planned(query).expect("valid");
        let (rows, (mark, end)) = (Vec::new(), Default::default());
        let answer = Answer {
            rows,
            memory: None,
            cut: cut.parse().expect("a cut"),
            mark,
            end,
            generation: Generation(3),
            revision: 0,
            revised: Vec::new(),
            source,
        };
        Written::new(query, &plan, answer, form)
    }

    #[test]
    fn a_strong_tag_promises_the_bytes_and_a_weak_one_what_they_count() {
        let tag =
            |query, cut, source, form| written(query, cut, source, form).headers(None)[header::ETAG].to_str().expect("text").to_owned();
        assert!(tag("step=5m", "0:1", Source::Cache, Form::Json).starts_with("W/\""));
        let strong = [
            tag("step=5m", "0:1", Source::Cache, Form::Csv),
            tag("step=5m", "0:2", Source::Cache, Form::Csv),
            tag("step=1h", "0:1", Source::Cache, Form::Csv),
            tag("step=5m&measures=sum", "0:1", Source::Cache, Form::Csv),
            tag("step=5m", "0:1", Source::Cache, Form::Lines),
            tag("step=5m", "0:1", Source::Cache, Form::Arrow),
            tag("step=5m", "0:1", Source::Cache, Form::Parquet),
            tag("step=5m&at=0:1", "0:1", Source::Pinned, Form::Json),
        ];
        for (n, tag) in strong.iter().enumerate() {
            assert!(tag.starts_with('"') && !strong[..n].contains(tag), "{strong:?}");
        }
        assert_eq!(strong[0], tag("step=5m", "0:1", Source::History, Form::Csv), "wherever it comes from");
    }

    #[test]
    fn a_client_is_told_that_it_has_an_answer() {
        let written = written("step=5m", "0:1", Source::Cache, Form::Json);
        let tag = written.headers(None)[header::ETAG].to_str().expect("text").to_owned();
        let knows = |text: &str| {
            let mut request = HeaderMap::new();
            request.insert(header::IF_NONE_MATCH, text.parse().expect("a header"));
            written.is_known(&request)
        };
        assert!(knows(&tag) && knows(tag.trim_start_matches("W/")) && knows("*") && knows(&format!("\"other\", {tag}")));
        assert!(knows(&format!("{}-gzip\"", &tag[..tag.len() - 1])) && !knows(&format!("{}-other\"", &tag[..tag.len() - 1])));
        assert!(!knows("\"other\"") && !knows("") && !written.is_known(&HeaderMap::new()));
    }

    #[test]
    fn nothing_is_kept_unasked_and_every_answer_says_where_it_stays() {
        let check = |query, source, form, link: &str| {
            let headers = written(query, "0:1,1:5", source, form).headers(None);
            let text = |name: HeaderName| headers[name].to_str().expect("text").to_owned();
            assert_eq!([header::CACHE_CONTROL, CUT, GENERATION].map(text), ["no-cache", "0:1,1:5", "3"]);
            assert_eq!(headers[header::LINK], format!("<{link}>; rel=\"permalink\""));
            assert_eq!(headers.contains_key(MARK), source != Source::Pinned);
        };
        let pinned = "/v1/query?step=5m&at=3/0:1,1:5";
        check("step=5m", Source::Cache, Form::Json, pinned);
        check("step=5m&at=0:1,1:5", Source::Pinned, Form::Json, pinned);
        check("step=5m&at=3/0:1,1:5", Source::Pinned, Form::Json, pinned);
        check("at_least=0:1", Source::Raw, Form::Csv, "/v1/query.csv?at=3/0:1,1:5");
        let long = format!("where=event_type:{}", "a".repeat(LONGEST_LINK));
        assert!(!written(&long, "0:1", Source::Cache, Form::Json).headers(None).contains_key(header::LINK));
    }
}
