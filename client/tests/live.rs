//! A stream that breaks, against a server that breaks it.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail as the test does")]

use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::{Arc, Mutex};
use tidemark_client::{Client, ClientError, Query};

/// What has been asked for: the query, and the last event's id.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

fn event(kind: &str, next: u64, rows: &str, gone: &str) -> String {
    format!(
        "event: {kind}\nid: 1/0:{next}\ndata: {{\"rows\":[{rows}],\"gone\":[{gone}],\"cut\":{{\"0\":{next}}},\"watermark\":null,\"exact\":true}}\n\n"
    )
}

fn row(kind: &str, count: u64) -> String {
    format!(r#"{{"event_type":"{kind}","count":{count},"revision":{count},"final":false}}"#)
}

/// The first stream breaks in the middle of an event, the second try meets a server that is not ready, the third one goes on.
async fn live(State(asked): State<Asked>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let mut asked = asked.lock().unwrap();
    let id = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
    asked.push((query.unwrap_or_default(), id));
    let text = match asked.len() {
        1 => {
            let whole = event("change", 5, &row("a", 4), "");
            format!(
                "retry: 1000\n\n: hello\n\n{}{}",
                event("snapshot", 3, &[row("a", 2), row("b", 1)].join(","), ""),
                &whole[..whole.len() / 2]
            )
        }
        2 => return (StatusCode::SERVICE_UNAVAILABLE, "not yet").into_response(),
        3 => event("change", 5, &row("a", 4), r#"{"event_type":"b"}"#),
        _ => return (StatusCode::FORBIDDEN, r#"{"detail":"the key may not"}"#).into_response(),
    };
    Body::from(text).into_response()
}

async fn serve(routes: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, routes).into_future());
    Client::new(&url, Some("tm_1"), None).unwrap()
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_behind_its_last_event() {
    let asked = Asked::default();
    let client = serve(Router::new().route("/v1/live", get(live)).with_state(Arc::clone(&asked))).await;
    let mut live = client.live(Query::new().group_by(&["event_type"]).filter("event_type", "a b"));
    let told =
        |rows: Vec<&tidemark_client::Row>| rows.iter().map(|row| (row.event_type.clone().unwrap(), row.count.unwrap())).collect::<Vec<_>>();
    assert_eq!(told(live.next().await.unwrap()), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(live.position().to_string(), "0:3");
    assert_eq!(told(live.next().await.unwrap()), [("a".to_owned(), 4)], "half an event is none, and one that is gone is gone");
    assert_eq!(live.position().to_string(), "0:5");
    let refused = live.next().await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { status, detail, .. } if *status == 403 && detail == "the key may not"), "{refused}");
    let ids: Vec<Option<String>> = asked.lock().unwrap().iter().map(|(_, id)| id.clone()).collect();
    let id = |id: &str| Some(id.to_owned());
    assert_eq!(ids, [None, id("1/0:3"), id("1/0:3"), id("1/0:5")]);
    assert_eq!(asked.lock().unwrap()[0].0, "group_by=event_type&where=event_type%3Aa+b");
}

#[tokio::test]
async fn what_is_sent_is_a_line_an_event_under_the_key_and_refusals_say_whether_to_come_again() {
    let events = async |headers: HeaderMap, body: String| {
        assert_eq!(
            (&headers["authorization"], &headers["content-type"]),
            (&"Bearer tm_1".parse().unwrap(), &"application/x-ndjson".parse().unwrap())
        );
        assert_eq!(body, "{\"event_type\":\"a\"}\n{\"event_type\":\"b\"}\n");
        r#"{"accepted":1,"rejected":[{"index":1,"reason":"missing_timestamp","detail":"d"}],"position":"0:7"}"#
    };
    let busy = async || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3")], "<html>busy</html>");
    let routes = Router::new().route("/v1/events", post(events)).route("/v1/query", get(busy)).route("/v1/status", get(async || "{}"));
    let client = serve(routes).await;
    let sent = client.send(&[serde_json::json!({"event_type": "a"}), serde_json::json!({"event_type": "b"})]).await.unwrap();
    assert_eq!((sent.accepted, sent.rejected[0].index, sent.position.to_string()), (1, 1, "0:7".to_owned()));
    let refused = client.query(&Query::new()).await.unwrap_err();
    assert!(refused.is_passing(), "{refused}");
    let ClientError::Refused { retry_after, detail, .. } = refused else { panic!("{refused}") };
    assert_eq!((retry_after.map(|wait| wait.as_secs()), &*detail), (Some(3), "<html>busy</html>"));
    assert!(matches!(client.status().await, Err(ClientError::Nonsense { .. })));
    assert!(Client::new("http://127.0.0.1:1", Some("a\nb"), None).is_err());
}
