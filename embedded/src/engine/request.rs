//! One HTTP request in ClickHouse's interface, taken apart: what to run, under which settings. No I/O, no engine.

use std::collections::HashSet;

use axum::http::{HeaderMap, Method, header};
use bytes::Bytes;

use super::BODY_LIMIT_BYTES;
use super::exception::{Exception, code};
use super::framing;

/// URL parameters of the HTTP interface that are neither settings nor of use here: there is one user, and no sessions.
const IGNORED: [&str; 13] = [
    "user",
    "password",
    "role",
    "quota_key",
    "query_id",
    "session_id",
    "session_timeout",
    "session_check",
    "wait_end_of_query",
    "buffer_size",
    "enable_http_compression",
    "client_protocol_version",
    "stacktrace",
];

/// What the URL and the method say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) sql: String,
    pub(crate) database: Option<String>,
    /// For results whose statement has no FORMAT of its own.
    pub(crate) format: String,
    /// `{name:Type}` places of the statement.
    pub(crate) parameters: Vec<(String, String)>,
    /// `--name=value`, for the session of this request.
    pub(crate) settings: Vec<String>,
    pub(crate) only_reads: bool,
    framed: bool,
}

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// `sql` without its FORMAT, and the rows.
    Insert { sql: String, format: String, rows: Vec<Bytes> },
    /// Anything else; data of an INSERT may be part of the text.
    Statement(String),
}

impl Ask {
    /// Reads the URL. A name that is no setting in `known` is refused, for the engine itself would ignore it silently.
    pub(crate) fn from_url(method: &Method, query: &str, known: &HashSet<String>) -> Result<Self, Exception> {
        let mut ask = Self {
            sql: String::new(),
            database: None,
            format: "TabSeparated".to_owned(),
            parameters: Vec::new(),
            settings: Vec::new(),
            only_reads: method == Method::GET || method == Method::HEAD,
            framed: false,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "query" => ask.sql = value.into_owned(),
                "database" => ask.database = Some(value.into_owned()).filter(|name| !name.is_empty()),
                "default_format" => ask.format = value.into_owned(),
                "decompress" => ask.framed = value == "1",
                "compress" if value == "0" => {}
                "compress" => {
                    return Err(Exception::new(
                        code::UNKNOWN_COMPRESSION_METHOD,
                        "this engine sends answers uncompressed; leave `compress` out",
                    ));
                }
                name if IGNORED.contains(&name) => {}
                name => match name.strip_prefix("param_") {
                    Some(name) => ask.parameters.push((name.to_owned(), value.into_owned())),
                    None => ask.setting(name, &value, known)?,
                },
            }
        }
        Ok(ask)
    }

    fn setting(&mut self, name: &str, value: &str, known: &HashSet<String>) -> Result<(), Exception> {
        if !known.contains(name) {
            return Err(Exception::new(
                code::UNKNOWN_SETTING,
                format!("there is no setting {name:?}; check its spelling in system.settings (UNKNOWN_SETTING)"),
            ));
        }
        self.only_reads |= name == "readonly" && value != "0";
        self.settings.push(format!("--{name}={value}"));
        Ok(())
    }

    /// Adds the body, and says what is to be run.
    pub(crate) fn with_body(&mut self, headers: &HeaderMap, body: Vec<Bytes>) -> Result<Work, Exception> {
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Exception::new(
                code::UNKNOWN_COMPRESSION_METHOD,
                "bodies with a Content-Encoding are not understood here; send the body as it is, or framed with decompress=1",
            ));
        }
        let body = if self.framed { framing::unpack(&joined(&body), BODY_LIMIT_BYTES)? } else { body };
        if let Some((sql, format)) = insert_with_format(&self.sql) {
            return Ok(Work::Insert { sql: sql.to_owned(), format: format.to_owned(), rows: body });
        }
        let body = joined(&body);
        match boundary(headers) {
            Some(boundary) => self.take_form(&body, boundary)?,
            None if body.is_empty() => {}
            None => {
                let text = std::str::from_utf8(&body)
                    .map_err(|_| Exception::new(code::BAD_ARGUMENTS, "the statement in the body is not UTF-8"))?;
                if !self.sql.is_empty() {
                    self.sql.push('\n');
                }
                self.sql.push_str(text);
            }
        }
        Ok(Work::Statement(std::mem::take(&mut self.sql)))
    }

    /// `multipart/form-data` with the fields `query` and `param_NAME`: how the client crate sends parameters.
    fn take_form(&mut self, body: &[u8], boundary: &str) -> Result<(), Exception> {
        let bad = || Exception::new(code::BAD_ARGUMENTS, "the form in the body is not whole, or not UTF-8");
        let text = std::str::from_utf8(body).map_err(|_| bad())?;
        // Each part stands between two delimiters, which include the line break in front of them.
        let text = text.strip_prefix(&format!("--{boundary}")).ok_or_else(bad)?;
        let mut parts: Vec<&str> = text.split(&format!("\r\n--{boundary}")).collect();
        if !parts.pop().is_some_and(|end| end.starts_with("--")) {
            return Err(bad());
        }
        for part in parts {
            let (head, value) = part.split_once("\r\n\r\n").ok_or_else(bad)?;
            let name = head.split_once(" name=\"").and_then(|(_, rest)| rest.split_once('"')).ok_or_else(bad)?.0;
            if name == "query" {
                self.sql = value.to_owned();
            } else if let Some(name) = name.strip_prefix("param_") {
                self.parameters.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(())
    }
}

fn joined(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

fn boundary(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (_, boundary) = kind.strip_prefix("multipart/form-data")?.split_once("boundary=")?;
    Some(boundary.trim_matches('"'))
}

/// `INSERT INTO t(a, b) FORMAT RowBinary` → (`INSERT INTO t(a, b)`, `RowBinary`). Data after the format, or no format: none.
fn insert_with_format(sql: &str) -> Option<(&str, &str)> {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    sql.get(..6).filter(|word| word.eq_ignore_ascii_case("insert"))?;
    let (rest, format) = sql.rsplit_once(char::is_whitespace)?;
    let (rest, word) = rest.trim_end().rsplit_once(char::is_whitespace)?;
    let whole = word.eq_ignore_ascii_case("format") && format.bytes().all(|b| b.is_ascii_alphanumeric());
    whole.then(|| (rest.trim_end(), format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_is_cut_at_its_format() {
        #[track_caller]
        fn check(sql: &str, want: Option<(&str, &str)>) {
            assert_eq!(insert_with_format(sql), want, "{sql}");
        }
        check("INSERT INTO t(a, b) FORMAT RowBinary", Some(("INSERT INTO t(a, b)", "RowBinary")));
        check(" insert into t settings x=1\nformat CSV ; ", Some(("insert into t settings x=1", "CSV")));
        check("INSERT INTO t SELECT 1", None);
        check("INSERT INTO t VALUES (1)", None);
        check("INSERT INTO t FORMAT JSONEachRow {\"a\":1}", None);
        check("SELECT 1 FORMAT CSV", None);
        check("", None);
    }

    fn ask(method: Method, query: &str) -> Result<Ask, Exception> {
        Ask::from_url(&method, query, &HashSet::from(["max_threads".to_owned(), "readonly".to_owned()]))
    }

    #[test]
    fn the_url_gives_settings_and_parameters_and_refuses_unknown_names() {
        let got = ask(Method::POST, "database=d&max_threads=1&param_x=a%26b&session_id=s&default_format=CSV").unwrap();
        assert_eq!(got.settings, ["--max_threads=1"]);
        assert_eq!(got.parameters, [("x".to_owned(), "a&b".to_owned())]);
        assert_eq!((got.database.as_deref(), &*got.format, got.only_reads), (Some("d"), "CSV", false));
        assert!(ask(Method::GET, "").unwrap().only_reads);
        assert!(ask(Method::POST, "readonly=1").unwrap().only_reads);
        assert!(!ask(Method::POST, "readonly=0").unwrap().only_reads);
        let refused = ask(Method::POST, "max_treads=1").unwrap_err();
        assert!(refused.code == code::UNKNOWN_SETTING && refused.text.contains("max_treads"), "{refused}");
        assert!(ask(Method::POST, "path=/tmp").is_err());
    }

    #[test]
    fn a_form_gives_the_statement_and_its_parameters_whole() {
        let body = "--XX\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {s:String}\r\n\
                    --XX\r\nContent-Disposition: form-data; name=\"param_s\"\r\n\r\na\r\n\r\nb\"--X\r\n--XX--\r\n";
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "multipart/form-data; boundary=XX".parse().unwrap());
        let mut got = ask(Method::POST, "").unwrap();
        let work = got.with_body(&headers, vec![body.into()]).unwrap();
        assert_eq!(work, Work::Statement("SELECT {s:String}".to_owned()));
        assert_eq!(got.parameters, [("s".to_owned(), "a\r\n\r\nb\"--X".to_owned())]);
        assert!(ask(Method::POST, "").unwrap().with_body(&headers, vec![Bytes::from(&body[..40])]).is_err());
    }
}
