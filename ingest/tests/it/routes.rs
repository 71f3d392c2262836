//! `POST /v1/events`, request by request.

use crate::fake::Topic;
use crate::{event, unpacked};
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use tidemark_core::event::Limits;
use tidemark_ingest::{Counts, Ingest, MAX_ITEMS, MAX_SENT_BYTES, MAX_UNPACKED_BYTES, routes};
use tidemark_topic::SendError;
use tower::ServiceExt;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const LINES: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn post(topic: &Topic, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    post_to("/v1/events", topic, headers, body).await
}

async fn post_to(path: &str, topic: &Topic, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let app = routes(Arc::new(Ingest::new(topic.clone(), Limits::default())));
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: head.status, headers: head.headers, body: serde_json::from_slice(&text).expect("an answer is JSON") }
}

/// Posts what is to be refused as a whole: a problem document whose detail contains `says`, and nothing written.
async fn refused(headers: &[(&str, &str)], body: impl Into<Body>, status: u16, says: &str) -> Answer {
    let topic = Topic::default();
    let answer = post(&topic, headers, body).await;
    assert_eq!(answer.status.as_u16(), status, "{says}: {}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["status"], status);
    let kind = answer.body["type"].as_str().unwrap();
    assert!(kind.starts_with("urn:tidemark:problem:"), "{kind}");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(says), "{detail}");
    assert!(topic.records().is_empty());
    answer
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed<'a>(headers: &[(&'a str, &'a str)], coding: &'a str) -> Vec<(&'a str, &'a str)> {
    [headers, &[("content-encoding", coding)]].concat()
}

#[tokio::test]
async fn an_object_an_array_and_lines_are_written_as_they_were_sent() {
    let (a, b) = (event("a"), event("b"));
    let topic = Topic::default();
    let answer = post(&topic, JSON, format!(" {a}\n")).await;
    assert_eq!(answer.body, json!({"accepted": 1, "rejected": [], "rejected_count": 0, "position": "1:1"}));
    let answer = post(&topic, JSON, format!("[{a} ,\n{b}]")).await;
    assert_eq!(answer.body, json!({"accepted": 2, "rejected": [], "rejected_count": 0, "position": "1:3"}));
    for kind in ["application/x-ndjson", "application/jsonl", "application/ndjson"] {
        let answer = post(&topic, &[("content-type", kind)], format!("{a}\r\n\n{b}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}");
    }
    let answer = post(&topic, JSON, "[]").await;
    assert_eq!(answer.body, json!({"accepted": 0, "rejected": [], "rejected_count": 0, "position": ""}));
    let written = [&a, &a, &b, &a, &b, &a, &b, &a, &b].map(|it| format!("u={it}"));
    assert_eq!(topic.picture(), written.join("\n"));
}

#[tokio::test]
async fn packed_bodies_are_unpacked_however_large_they_are() {
    for events in [1, 3, 20_000] {
        let lines: Vec<String> = (0..events).map(|n| event(&n.to_string())).collect();
        let lines = lines.join("\n");
        let all = [
            ("gzip", gzip(lines.as_bytes())),
            ("zstd", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
            ("identity", lines.clone().into_bytes()),
        ];
        for (coding, body) in all {
            let topic = Topic::default();
            let answer = post(&topic, &packed(LINES, coding), body).await;
            assert_eq!(answer.body["accepted"], events, "{coding}");
            let payloads = topic.records().into_iter().map(|it| it.payload);
            let payloads = payloads.collect::<Vec<_>>().join(&b"\n"[..]);
            assert!(payloads == lines.as_bytes(), "{coding}");
        }
    }
}

#[tokio::test]
async fn a_body_that_packs_better_than_any_real_one_is_unpacked_all_the_same() {
    let mut lines = event("a").into_bytes();
    lines.push(b'\n');
    lines.resize(4 * 1024 * 1024, b' ');
    for (coding, body) in [("gzip", gzip(&lines)), ("zstd", zstd::encode_all(&lines[..], 3).unwrap())] {
        let topic = Topic::default();
        let answer = post(&topic, &packed(LINES, coding), body).await;
        assert_eq!(answer.body["accepted"], 1, "{coding}");
    }
}

#[tokio::test]
async fn a_bomb_is_stopped_while_it_unfolds() {
    // One member after the other is one body.
    let blank = vec![b' '; 1024 * 1024];
    let members = MAX_UNPACKED_BYTES / blank.len() + 1;
    let says = "longer than 128 MiB when unpacked";
    let bomb = gzip(&blank).repeat(members);
    refused(&packed(LINES, "gzip"), bomb, 413, says).await;
    let bomb = zstd::encode_all(&blank[..], 1).unwrap().repeat(members);
    refused(&packed(LINES, "zstd"), bomb, 413, says).await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_whether_its_length_is_announced_or_not() {
    let says = "longer than 32 MiB";
    let length = (MAX_SENT_BYTES + 1).to_string();
    let announced = [LINES, &[("content-length", length.as_str())]].concat();
    refused(&announced, "never read", 413, says).await;
    refused(LINES, vec![b' '; MAX_SENT_BYTES + 1], 413, says).await;
    let most = "1\n".repeat(MAX_ITEMS + 1);
    refused(LINES, most, 413, "more than 100000 items").await;
    let array = format!("[1{}]", ",1".repeat(MAX_ITEMS));
    refused(JSON, array, 413, "more than 100000 items").await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_says_why_and_nothing_of_it_is_written() {
    let good = event("a");
    let whole = gzip(good.repeat(100).as_bytes());
    let cut = whole[..whole.len() / 2].to_vec();
    refused(&packed(LINES, "gzip"), cut, 400, "the gzip body is broken or cut off").await;
    let says = "the zstd body is broken or cut off";
    refused(&packed(LINES, "zstd"), whole, 400, says).await;
    refused(JSON, format!("[{good},{good}"), 400, "nothing of it was written").await;
    refused(JSON, format!("{good}\n{good}"), 400, "application/x-ndjson").await;
    refused(JSON, "12", 400, "neither an object nor an array").await;
    refused(JSON, "", 400, "empty").await;
    refused(LINES, "\n\r\n", 400, "empty").await;
    refused(&packed(LINES, "gzip"), "", 400, "empty").await;
    refused(&packed(LINES, "gzip"), gzip(b""), 400, "empty").await;
}

#[tokio::test]
async fn a_wrong_type_or_coding_is_refused_with_the_right_ones() {
    let good = event("a");
    let says = "application/x-ndjson";
    refused(&[], good.clone(), 415, says).await;
    refused(&[("content-type", "text/plain")], good.clone(), 415, says).await;
    let answer = refused(&packed(LINES, "br"), good, 415, "gzip or zstd").await;
    assert_eq!(answer.headers["accept-encoding"], "zstd, gzip, identity");
}

#[tokio::test]
async fn another_method_is_told_what_the_path_is_for() {
    let app = routes(Arc::new(Ingest::new(Topic::default(), Limits::default())));
    let request = Request::get("/v1/events").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn items_are_rejected_by_index_and_the_rest_is_written_in_order() {
    let body = format!("{}\nx\n\n{}\n{{\"event_type\":\"a\",\"timestamp\":\"soon\"}}\n{}\n", event("a"), event("b"), event("c"));
    let topic = Topic::default();
    let answer = post(&topic, LINES, body).await;
    assert_eq!(
        answer.body,
        json!({
            "accepted": 3,
            "rejected_count": 2,
            "rejected_reasons": {"bad_timestamp": 1, "not_json": 1},
            "rejected": [
                {"index": 1, "reason": "not_json", "detail": "the record is not valid JSON"},
                {"index": 4, "reason": "bad_timestamp",
                 "detail": "timestamp must be RFC 3339, such as 2013-01-01T10:15:00Z, or an integer of epoch milliseconds"},
            ],
            "position": "1:3",
        })
    );
    let written = ["a", "b", "c"].map(|id| format!("u={}", event(id)));
    assert_eq!(topic.picture(), written.join("\n"));
}

#[tokio::test]
async fn the_position_is_the_next_offset_of_each_partition_that_was_written_to() {
    let of = |id: &str| format!(r#"{{"event_type":"a","timestamp":0,"event_id":"{id}"}}"#).replace(":0,", ":1356998400000,");
    let topic = Topic::default();
    let lines = [of("xx"), of("x"), of("yy"), of("zz")].join("\n");
    assert_eq!(post(&topic, LINES, lines).await.body["position"], "0:3,1:1");
    assert_eq!(post(&topic, LINES, of("x")).await.body["position"], "1:2");
    assert_eq!(post(&topic, LINES, of("xx")).await.body["position"], "0:4");
}

#[tokio::test]
async fn each_accepted_events_position_is_told_if_that_is_wanted() {
    let of = |id: &str| format!(r#"{{"event_type":"a","timestamp":1356998400000,"event_id":"{id}"}}"#);
    let topic = Topic::default();
    let lines = [of("xx"), "rubbish".to_owned(), of("x"), of("yy")].join("\n");
    let answer = post_to("/v1/events?positions=true", &topic, LINES, lines.clone()).await;
    let at = |index: usize, partition: u32, offset: u64| json!({"index": index, "partition": partition, "offset": offset});
    assert_eq!(answer.body["positions"], json!([at(0, 0, 0), at(2, 1, 0), at(3, 0, 1)]));
    assert_eq!(answer.body["position"], "0:2,1:1");
    let answer = post_to("/v1/events?positions=false", &topic, LINES, lines.clone()).await;
    assert_eq!(answer.body.get("positions"), None);
    let failing = Topic::failing([
        (|index| if index == 1 { Err(SendError::Unavailable { reason: "no leader".into() }) } else { Ok(()) }) as crate::fake::Fate
    ]);
    let answer = post_to("/v1/events?positions=true", &failing, LINES, lines.clone()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["positions"]), (503, &json!([at(0, 0, 0), at(3, 0, 1)])));
    for wrong in ["positions=maybe", "position=true"] {
        let answer = post_to(&format!("/v1/events?{wrong}"), &topic, LINES, lines.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.body["detail"].as_str().unwrap().contains("`positions`, true or false"), "{}", answer.body);
    }
}

/// A CloudEvents event of that id and type, in JSON.
fn cloud_event(id: &str, kind: &str) -> String {
    format!(r#"{{"specversion":"1.0","source":"/s","id":"{id}","type":"{kind}","time":"2013-01-01T00:00:00Z","data":{{"user_id":"u"}}}}"#)
}

#[tokio::test]
async fn cloud_events_are_written_as_events_and_one_alone_is_answered_by_the_status() {
    let topic = Topic::default();
    let one = [("content-type", "application/cloudevents+json; charset=utf-8")];
    let answer = post(&topic, &one, cloud_event("1", "a")).await;
    assert_eq!(answer.body, json!({"accepted": 1, "rejected": [], "rejected_count": 0, "position": "1:1"}));
    let many = [("content-type", "application/cloudevents-batch+json")];
    let batch = format!("[{},{}]", cloud_event("2", "a"), cloud_event("3", ""));
    let answer = post(&topic, &many, batch).await;
    let detail = "event_type must be a string of 1 to 128 bytes (event_type is made of type)";
    let rejected = json!([{"index": 1, "reason": "bad_event_type", "detail": detail}]);
    assert_eq!(
        (answer.status.as_u16(), answer.body),
        (
            200,
            json!({"accepted": 1, "rejected": rejected, "rejected_count": 1, "rejected_reasons": {rejected[0]["reason"].as_str().expect("text"): 1}, "position": "1:2"})
        )
    );
    let head = [("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-id", "4"), ("ce-type", "a"), ("ce-time", "2013-01-01T00:00:00Z")];
    let answer = post(&topic, &head, "").await;
    assert_eq!(answer.body["accepted"], 1, "{}", answer.body);
    let event = |id: &str, rest: &str| format!(r#"{{"event_type":"a","timestamp":"2013-01-01T00:00:00Z","event_id":"/s {id}"{rest}}}"#);
    let user = r#","user_id":"u""#;
    let written = [format!("u={}", event("1", user)), format!("u={}", event("2", user)), format!("/s 4={}", event("4", ""))];
    assert_eq!(topic.picture(), written.join("\n"));

    let refusal = refused(&one, cloud_event("1", ""), 400, "event_type is made of type").await;
    assert_eq!((&refusal.body["type"], &refusal.body["reason"]), (&json!("urn:tidemark:problem:event-rejected"), &json!("bad_event_type")));
    refused(&head[..4], "", 400, "timestamp is required").await;
    refused(&one, "{", 400, "nothing of it was written").await;
    refused(&many, cloud_event("1", "a"), 400, "nothing of it was written").await;
    refused(&[("content-type", "application/cloudevents+xml")], "<event/>", 415, "application/cloudevents+json").await;
    assert!(
        packed(&one, "gzip").len() == 2 && post(&topic, &packed(&one, "gzip"), gzip(cloud_event("5", "a").as_bytes())).await.status == 200
    );
}

#[tokio::test]
async fn calls_of_segment_are_written_as_events_and_answered_as_its_libraries_read_it() {
    let topic = Topic::default();
    let call = |kind: &str| format!(r#"{{"type":"{kind}","event":"a","messageId":"m","userId":"u","timestamp":"2013-01-01T00:00:00Z"}}"#);
    let batch = format!(r#"{{"batch":[{},{}],"sentAt":"2013-01-01T00:00:00Z"}}"#, call("identify"), call("track"));
    let answer = post_to("/v1/batch?positions=true", &topic, JSON, batch).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.body["success"], &answer.body["accepted"]), (&json!(false), &json!(1)));
    assert_eq!(answer.body["rejected"][0]["reason"], "not_track");
    assert_eq!(answer.body["positions"], json!([{"index": 1, "partition": 1, "offset": 0}]));
    let answer = post_to("/v1/track", &topic, JSON, call("track")).await;
    assert_eq!(answer.body, json!({"success": true, "accepted": 1, "rejected": [], "rejected_count": 0, "position": "1:2"}));
    let event = r#"{"event_type":"a","timestamp":"2013-01-01T00:00:00Z","event_id":"m","user_id":"u"}"#;
    assert_eq!(topic.picture(), format!("u={event}\nu={event}"));

    for (path, headers, body, status, code) in [
        ("/v1/track", JSON, call("page"), 400, "event-rejected"),
        ("/v1/batch", JSON, "[]".to_owned(), 400, "bad-body"),
        ("/v1/batch", JSON, String::new(), 400, "bad-body"),
        ("/v1/batch", LINES, call("track"), 415, "unsupported-media-type"),
    ] {
        let answer = post_to(path, &topic, headers, body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (status, &json!(code)), "{}", answer.body);
        assert_eq!(answer.body["message"], answer.body["detail"]);
    }
}

#[tokio::test]
async fn without_every_acknowledgement_there_is_no_success_but_a_request_to_send_again() {
    let body = ["a", "b", "c", "d"].map(event).join("\n");
    let topic = Topic::failing([
        (|index| match index {
            1 => Err(SendError::Unknown { reason: "no answer".into() }),
            2 => Err(SendError::Unavailable { reason: "no leader".into() }),
            _ => Ok(()),
        }) as crate::fake::Fate,
        |index| match index {
            0 => Err(SendError::Unavailable { reason: "no leader".into() }),
            1 => Err(SendError::Refused { reason: "not authorized".into() }),
            _ => Ok(()),
        },
    ]);
    let ingest = Arc::new(Ingest::new(topic.clone(), Limits::default()));
    let post = async || {
        let request = Request::post("/v1/events").header("content-type", "application/x-ndjson");
        let request = request.body(Body::from(body.clone())).unwrap();
        let response = routes(Arc::clone(&ingest)).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (head, serde_json::from_slice::<Value>(&text).unwrap())
    };

    let (head, problem) = post().await;
    assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head.headers["retry-after"], "1");
    assert_eq!(problem["accepted"], 2);
    assert_eq!(problem["unknown"], 1);
    assert_eq!(problem["position"], "1:2");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("2 of 4 valid events were not acknowledged"), "{detail}");
    assert!(detail.ends_with("send the same events again: those with an event_id are counted once"), "{detail}");

    let (_, problem) = post().await;
    assert_eq!(problem["unknown"], 0);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("not authorized"), "{detail}");
    assert!(detail.contains("until that is put right"), "{detail}");

    let (head, answer) = post().await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(answer["position"], "1:8");
    assert_eq!(ingest.counts(), Counts { accepted: 8, rejected: 0, failed: 4 });
}

#[tokio::test]
async fn of_the_dirty_file_exactly_the_lines_that_the_manifest_names_are_rejected() {
    let manifest = unpacked("flights-2013-01.dirty.manifest.csv.gz");
    let manifest = String::from_utf8(manifest).unwrap();
    let bad: BTreeSet<usize> = manifest
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| matches!(fields[2], "reject" | "policy"))
        .map(|fields| fields[0].parse().unwrap())
        .collect();
    assert_eq!(bad.len(), 121);
    let lines = unpacked("flights-2013-01.dirty.ndjson.gz");
    let topic = Topic::default();
    let answer = post(&topic, &packed(LINES, "gzip"), gzip(&lines)).await;
    let rejected = answer.body["rejected"].as_array().unwrap();
    let rejected: BTreeSet<usize> = rejected.iter().map(|it| usize::try_from(it["index"].as_u64().unwrap()).unwrap() + 1).collect();
    assert_eq!(rejected, bad);
    assert_eq!(answer.body["accepted"], 26_997 - 121);
    let good = lines.split(|byte| *byte == b'\n').enumerate().filter(|(n, line)| !line.is_empty() && !bad.contains(&(n + 1)));
    let written = topic.records();
    assert!(written.iter().map(|it| &it.payload[..]).eq(good.map(|(_, line)| line)));
}
