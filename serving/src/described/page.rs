//! The reference: the OpenAPI document as a page of HTML that needs nothing else. No script, no font, no other address: what
//! describes a server must be readable where only that server can be reached.

use serde_json::{Map, Value};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn page(document: &Value) -> String {
    let info = &document["info"];
    let title = format!("{} {}", text(&info["title"]), text(&info["version"]));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}: HTTP interface</title><style>{STYLE}</style></head>\n<body><a class=\"skip\" href=\"#operations\">To the operations</a>\n\
         <header><h1>{title}: HTTP interface</h1>{}<p><a href=\"openapi.json\">The same as an OpenAPI {} document</a></p></header>\n",
        paragraphs(&info["description"]),
        text(&document["openapi"]),
    );
    let operations = operations(document);
    out.push_str("<nav aria-label=\"Operations\"><ul>");
    for Operation { method, path, told } in &operations {
        let id = text(&told["operationId"]);
        let _ = write!(out, "<li><a href=\"#{id}\"><code>{method} {}</code></a> {}</li>", escaped(path), text(&told["summary"]));
    }
    out.push_str("</ul></nav>\n<main id=\"operations\">\n");
    for tag in list(&document["tags"]) {
        let _ = writeln!(out, "<section><h2>{}</h2>", text(&tag["description"]));
        for operation in operations.iter().filter(|operation| operation.told["tags"][0] == tag["name"]) {
            operation.write(&mut out);
        }
        out.push_str("</section>\n");
    }
    out.push_str("<section><h2>What is sent and answered</h2>\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        write_schema(&mut out, name, schema);
    }
    out.push_str("</section></main></body></html>\n");
    out
}

/// One method of one path.
struct Operation<'a> {
    method: String,
    path: &'a str,
    told: &'a Value,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let of_path = |(path, methods)| {
        members(methods).map(move |(method, told)| Operation { method: method.to_uppercase(), path, told }).collect::<Vec<_>>()
    };
    members(&document["paths"]).map(|(path, methods)| (path.as_str(), methods)).flat_map(of_path).collect()
}

impl Operation<'_> {
    fn write(&self, out: &mut String) {
        let Self { method, path, told } = self;
        let _ = writeln!(
            out,
            "<article id=\"{}\"><h3><code>{method} {}</code> {}</h3>{}",
            text(&told["operationId"]),
            escaped(path),
            text(&told["summary"]),
            paragraphs(&told["description"])
        );
        if let Some(scope) = told["security"][0]["key"][0].as_str() {
            let _ = writeln!(out, "<p>Needs a key with the scope <code>{}</code>, where there are keys.</p>", escaped(scope));
        }
        let parameters = list(&told["parameters"]).map(|it| {
            let name = format!("<code>{}</code>", text(&it["name"]));
            let kind = [kind(&it["schema"]), format!("in the {}", text(&it["in"]))].join(", ");
            [name, kind, text(&it["description"]), value(&it["example"])]
        });
        write_table(out, "Parameters", ["Name", "Kind", "Meaning", "Example"], parameters);
        let body = &told["requestBody"];
        if !body.is_null() {
            let _ = writeln!(out, "<h4>Body</h4>{}", paragraphs(&body["description"]));
            write_contents(out, &body["content"]);
        }
        let responses = members(&told["responses"]).map(|(status, response)| {
            let forms: Vec<String> = members(&response["content"]).map(|(form, _)| format!("<code>{}</code>", escaped(form))).collect();
            [escaped(status), text(&response["description"]), forms.join(", ")]
        });
        write_table(out, "Answers", ["Status", "Meaning", "Form"], responses);
        for (_, response) in members(&told["responses"]) {
            write_contents(out, &response["content"]);
        }
        out.push_str("</article>\n");
    }
}

/// Media types with their schemas and examples, where there is something to say.
fn write_contents(out: &mut String, contents: &Value) {
    for (form, content) in members(contents).filter(|(form, _)| *form != "application/problem+json") {
        let examples = members(&content["examples"]).map(|(_, example)| &example["value"]);
        let examples: Vec<&Value> = examples.chain(Some(&content["example"]).filter(|example| !example.is_null())).collect();
        if examples.is_empty() {
            continue;
        }
        let _ = writeln!(out, "<p><code>{}</code>: {}</p>", escaped(form), kind(&content["schema"]));
        for example in examples {
            let shown = example.as_str().map_or_else(|| format!("{example:#}"), str::to_owned);
            let _ = writeln!(out, "<pre tabindex=\"0\">{}</pre>", escaped(&shown));
        }
    }
}

fn write_schema(out: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(out, "<article id=\"schema-{0}\"><h3><code>{0}</code></h3>{1}", escaped(name), paragraphs(&schema["description"]));
    if schema["properties"].is_null() {
        let _ = writeln!(out, "<p>{}</p>", kind(schema));
    }
    let required: Vec<&str> = list(&schema["required"]).filter_map(Value::as_str).collect();
    let fields = members(&schema["properties"]).map(|(name, field)| {
        let must = if required.contains(&name.as_str()) { ", required" } else { "" };
        let example = list(&field["examples"]).next().unwrap_or(&field["example"]);
        [format!("<code>{}</code>", escaped(name)), kind(field) + must, text(&field["description"]), value(example)]
    });
    write_table(out, &format!("Members of {}", escaped(name)), ["Name", "Kind", "Meaning", "Example"], fields);
    out.push_str("</article>\n");
}

/// Cells are HTML. Without a row there is no table.
fn write_table<const N: usize>(out: &mut String, caption: &str, head: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let head: String = head.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let _ = writeln!(
        out,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>"
    );
    for row in rows {
        let cells = row.iter().enumerate().map(|(n, cell)| match n {
            0 => format!("<th scope=\"row\">{cell}</th>"),
            _ => format!("<td>{cell}</td>"),
        });
        let _ = writeln!(out, "<tr>{}</tr>", cells.collect::<String>());
    }
    out.push_str("</tbody></table></div>\n");
}

/// What kind of value a schema wants, as HTML.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escaped(name));
    }
    let alternatives: Vec<String> = list(&schema["oneOf"]).map(kind).collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    let choices: Vec<String> = list(&schema["enum"]).map(value).collect();
    if !choices.is_empty() {
        return format!("one of {}", choices.join(", "));
    }
    let kinds: Vec<&str> = schema["type"].as_str().into_iter().chain(list(&schema["type"]).filter_map(Value::as_str)).collect();
    match kinds.as_slice() {
        [] => "anything".to_owned(),
        ["array"] => format!("array of {}", kind(&schema["items"])),
        kinds => escaped(&kinds.join(" or ")),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("<code>{}</code>", escaped(text)),
        Value::Array(items) => items.iter().map(self::value).collect::<Vec<_>>().join(", "),
        other => format!("<code>{}</code>", escaped(&other.to_string())),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    let text = escaped(value.as_str().unwrap_or_default());
    // What is between two backticks is code.
    text.split('`').enumerate().map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

fn paragraphs(value: &Value) -> String {
    let paragraphs = value.as_str().unwrap_or_default().split("\n\n").filter(|paragraph| !paragraph.is_empty());
    paragraphs.map(|paragraph| format!("<p>{}</p>", text(&paragraph.into()))).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::described::{document, reference};
    use serde_json::json;

    #[test]
    fn every_operation_parameter_and_example_is_on_the_page() {
        let (document, page) = (document(), reference());
        for Operation { method, path, told } in operations(document) {
            let heading = format!("<article id=\"{}\"><h3><code>{method} {path}</code>", told["operationId"].as_str().expect("an id"));
            assert!(page.contains(&heading), "{heading}");
            for parameter in list(&told["parameters"]) {
                let name = parameter["name"].as_str().expect("a name");
                assert!(page.contains(&format!("<th scope=\"row\"><code>{name}</code></th>")), "{name}");
            }
        }
        for (name, _) in members(&document["components"]["schemas"]) {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        assert!(page.contains("&quot;order_amount&quot;: 19.99"), "the body's example");
    }

    #[test]
    fn the_page_needs_nothing_else_and_its_links_lead_somewhere() {
        let page = reference();
        for foreign in ["<script", "<link", "<img", "@import", "url(", "http://", "https://"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for target in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let is_there = target.strip_prefix('#').is_some_and(|id| page.contains(&format!("id=\"{id}\"")));
            assert!(is_there || target == "openapi.json", "{target}");
        }
        for tag in ["table", "article", "section", "div", "p", "pre", "code", "ul", "li", "th", "td", "tr"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn what_is_described_cannot_become_markup() {
        let page = page(&json!({
            "info": {"title": "<b>&", "version": "1", "description": "a `<i>`"}, "openapi": "3.1.0", "tags": [{"name": "t", "description": "T"}],
            "paths": {"/<x>": {"get": {"operationId": "o", "tags": ["t"], "summary": "\"s\"", "responses": {}}}},
        }));
        assert!(page.contains("&lt;b&gt;&amp; 1") && page.contains("<code>GET /&lt;x&gt;</code> &quot;s&quot;"), "{page}");
        assert!(page.contains("<p>a <code>&lt;i&gt;</code></p>"), "{page}");
    }
}
