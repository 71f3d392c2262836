//! What the HTTP interface is: an OpenAPI 3.1 document, and the page that is made of it. Both are made once, of what is
//! described beside the routes: here those of serving, in `tidemark_ingest` those of ingest.

mod answers;
mod page;
mod parameters;
mod routes;

use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use tidemark_ingest::problem;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidemark",
        description = "Counts the events of a Kafka topic by 5-minute window, for this second and for last year in one answer, and says exactly which events an answer contains.\n\n\
            Where the server has keys, a request carries one: `Authorization: Bearer KEY`, `X-Api-Key: KEY`, or HTTP Basic with the key as the user's name. \
            Errors are problem documents (RFC 9457), whose `detail` says what to do.\n\n\
            Below `/api/v1` is Prometheus's own HTTP interface, which Prometheus describes.",
    ),
    tags(
        (name = "query", description = "Ask"),
        (name = "ingest", description = "Send events"),
        (name = "operate", description = "Look after it"),
    ),
    components(schemas(problem::Described)),
)]
struct Whole;

/// The OpenAPI document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut whole = Whole::openapi();
        whole.merge(routes::Described::openapi());
        whole.merge(tidemark_ingest::Described::openapi());
        let mut document = serde_json::to_value(whole).expect("the document is JSON");
        complete(&mut document);
        document
    });
    &DOCUMENT
}

/// The page that is made of it.
pub fn reference() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| page::page(document()));
    &PAGE
}

/// Adds what is the same for all: how a key is sent, what is answered without one, and that errors are problem documents.
fn complete(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({"key": {
        "type": "http", "scheme": "bearer",
        "description": "A key made by `tidemark key`. Its scopes say what it may do: `ingest` sends, `read` asks, `admin` steers.",
    }});
    let Some(paths) = document["paths"].as_object_mut() else { return };
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    for operation in operations.filter(|operation| operation["responses"].is_object()) {
        let is_open = operation["security"].is_null();
        let has_query = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|parameter| parameter["in"] == "query"));
        let Some(responses) = operation["responses"].as_object_mut() else { continue };
        if !is_open {
            for (status, description) in [
                ("401", "A key is needed"),
                ("403", "The key has another scope"),
                ("429", "The key asks too often: Retry-After says when to come again"),
            ] {
                responses.insert(status.to_owned(), json!({"description": description}));
            }
        }
        for (_, response) in responses.iter_mut().filter(|(status, response)| *status >= &"400".to_owned() && response["content"].is_null())
        {
            response["content"] = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
        }
        // Answered by the HTTP library, before any route is looked for.
        if has_query {
            responses.insert("414".to_owned(), json!({"description": "The address is longer than 64 KiB. Has no body"}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The literals behind `.route(` in a source, but for its tests.
    fn routes(source: &'static str) -> impl Iterator<Item = &'static str> {
        source.split("#[cfg(test)]").next().unwrap_or_default().split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn every_route_is_described() {
        let sources =
            [include_str!("../api/mod.rs"), include_str!("../../../ingest/src/route.rs"), include_str!("../../../metrics/src/http.rs")];
        let paths: Vec<&str> = sources.into_iter().flat_map(routes).collect();
        assert!(paths.len() > 10, "{paths:?}");
        let described = document()["paths"].as_object().expect("paths");
        let forms = ["csv", "ndjson", "arrow", "parquet"].map(|form| format!("/v1/query.{form}"));
        let missing: Vec<_> =
            paths.iter().filter(|path| !described.contains_key(**path) && !forms.iter().any(|form| form == **path)).collect();
        assert!(missing.is_empty(), "describe {missing:?} in described/routes.rs");
    }

    #[test]
    fn every_operation_says_what_it_is_and_what_it_answers() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                let is_said = |name: &str| operation[name].as_str().is_some_and(|text| !text.is_empty());
                assert!(is_said("summary") && is_said("operationId") && operation["tags"][0].is_string(), "{method} {path}");
                let responses = operation["responses"].as_object().expect("responses");
                for (status, response) in responses {
                    let is_problem = response["content"]["application/problem+json"].is_object();
                    assert_eq!(is_problem, status.as_str() >= "400" && status != "414", "{method} {path} {status}");
                }
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(parameter["description"].is_string() || parameter["in"] == "header", "{method} {path}: {}", parameter["name"]);
                }
                assert_eq!(responses.contains_key("401"), operation["security"].is_array(), "{method} {path}");
            }
        }
    }

    #[test]
    fn no_two_things_have_one_name() {
        let named = |document: utoipa::openapi::OpenApi| document.components.map(|it| it.schemas.into_keys().collect()).unwrap_or_default();
        let names: [Vec<String>; 3] = [Whole::openapi(), routes::Described::openapi(), tidemark_ingest::Described::openapi()].map(named);
        assert_eq!(names.iter().flatten().count(), document()["components"]["schemas"].as_object().map_or(0, Map::len), "{names:?}");
    }

    #[test]
    fn what_is_referred_to_is_there() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let (document, mut found) = (document(), Vec::new());
        references(document, &mut found);
        assert!(found.len() > 5);
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
