//! `send` against a server of the routes.

use crate::fake::{Fate, Topic};
use crate::{data_file, event, unpacked};
use axum::Router;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::event::Limits;
use tidemark_ingest::{Cause, Ingest, SendError, SendOptions, routes, send};

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address.to_string()
}

async fn serve_topic(topic: &Topic) -> String {
    serve(routes(Arc::new(Ingest::new(topic.clone(), Limits::default())))).await
}

fn options(batch: usize, in_flight: usize) -> SendOptions {
    SendOptions { batch, in_flight, progress: false, ..SendOptions::default() }
}

fn ids(from: usize, to: usize) -> String {
    (from..to).map(|n| event(&n.to_string()) + "\n").collect()
}

/// Three files of 250 events each: plain, gzip and zstd, whatever their names say.
fn three_files(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(ids(250, 500).as_bytes()).unwrap();
    vec![
        write("plain", ids(0, 250).as_bytes()),
        write("gzip", &gzip.finish().unwrap()),
        write("zstd", &zstd::encode_all(ids(500, 750).as_bytes(), 3).unwrap()),
    ]
}

fn written(topic: &Topic) -> Vec<Vec<u8>> {
    topic.records().into_iter().map(|it| it.payload).collect()
}

fn expected(events: usize) -> Vec<Vec<u8>> {
    (0..events).map(|n| event(&n.to_string()).into_bytes()).collect()
}

#[tokio::test]
async fn one_batch_at_a_time_every_line_arrives_once_and_in_order_from_plain_and_packed_files() {
    let dir = tempfile::tempdir().unwrap();
    for pack in [false, true] {
        let topic = Topic::default();
        let url = serve_topic(&topic).await;
        let options = SendOptions { pack: Some(pack), ..options(100, 1) };
        let report = send(&three_files(&dir), &url, options).await.unwrap();
        assert_eq!((report.accepted, report.resent), (750, 0));
        assert_eq!(report.position.to_string(), "1:750");
        assert!(written(&topic) == expected(750), "packed: {pack}");
    }
}

#[tokio::test]
async fn with_several_batches_in_flight_every_line_arrives_once() {
    let dir = tempfile::tempdir().unwrap();
    let topic = Topic::default();
    let url = serve_topic(&topic).await;
    let report = send(&three_files(&dir), &url, options(7, 5)).await.unwrap();
    assert_eq!(report.accepted, 750);
    let (mut got, mut wanted) = (written(&topic), expected(750));
    got.sort();
    wanted.sort();
    assert!(got == wanted);
}

#[tokio::test]
async fn a_batch_that_was_not_acknowledged_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let none: Fate = |_| Err(tidemark_topic::SendError::Unavailable { reason: "no leader".into() });
    let topic = Topic::failing([none]);
    let url = serve_topic(&topic).await;
    let report = send(&three_files(&dir)[..1], &url, options(250, 4)).await.unwrap();
    assert_eq!((report.accepted, report.resent), (250, 250));
    assert!(written(&topic) == expected(250));
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let topic = Topic::default();
    let app = routes(Arc::new(Ingest::new(topic.clone(), Limits::default())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for _ in 0..3 {
            drop(listener.accept().await);
        }
        axum::serve(listener, app).await
    });
    let report = send(&three_files(&dir), &url, options(100, 2)).await.unwrap();
    assert_eq!((report.accepted, topic.records().len()), (750, 750));
    assert!(report.resent >= 200, "{}", report.resent);
}

#[tokio::test]
async fn it_gives_up_when_time_is_up_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let lost: Fate = |_| Err(tidemark_topic::SendError::Unknown { reason: "no answer".into() });
    let url = serve_topic(&Topic::failing(std::iter::once((|_| Ok(())) as Fate).chain([lost; 9]))).await;
    let options = SendOptions { retry_for: Duration::ZERO, ..options(100, 1) };
    let stopped = send(&three_files(&dir)[..1], &url, options).await.unwrap_err();
    let text = stopped.to_string();
    let SendError::Stopped { line, cause, report, .. } = stopped else { panic!("{text}") };
    assert_eq!((line, report.accepted), (101, 100));
    assert!(matches!(cause, Cause::GaveUp { .. }), "{text}");
    assert!(text.contains("100 of 100 valid events were not acknowledged"), "{text}");
}

#[tokio::test]
async fn a_server_that_refuses_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let url = serve(Router::new()).await;
    let stopped = send(&three_files(&dir), &url, options(100, 1)).await.unwrap_err();
    let SendError::Stopped { cause, .. } = stopped else { panic!("{stopped}") };
    assert!(matches!(cause, Cause::Refused { status: 404, .. }), "{cause}");
}

#[tokio::test]
async fn what_is_wrong_with_files_and_addresses_is_said_before_or_where_it_is_met() {
    let dir = tempfile::tempdir().unwrap();
    let url = serve_topic(&Topic::default()).await;
    let missing = send(&[dir.path().join("nothing")], &url, options(100, 1)).await;
    assert!(matches!(missing, Err(SendError::Open { .. })), "{missing:?}");
    let ftp = send(&three_files(&dir), "ftp://host", options(100, 1)).await;
    assert!(matches!(ftp, Err(SendError::Url { .. })), "{ftp:?}");
    let whole = std::fs::read(&three_files(&dir)[1]).unwrap();
    let cut = dir.path().join("cut.gz");
    std::fs::write(&cut, &whole[..whole.len() - 9]).unwrap();
    let stopped = send(&[cut], &url, options(100, 1)).await.unwrap_err();
    let SendError::Stopped { cause, .. } = stopped else { panic!("{stopped}") };
    assert!(matches!(cause, Cause::Read(_)), "{cause}");
    let nothing = send(&[], &url, options(100, 1)).await.unwrap();
    assert_eq!((nothing.accepted, nothing.position.to_string().as_str()), (0, ""));
}

#[tokio::test]
async fn the_dirty_file_is_reported_line_by_line_first_and_counted_by_reason() {
    let topic = Topic::default();
    let url = serve_topic(&topic).await;
    let file = data_file("flights-2013-01.dirty.ndjson.gz");
    let report = send(std::slice::from_ref(&file), &url, SendOptions { progress: false, ..SendOptions::default() }).await.unwrap();
    assert_eq!(report.accepted, 26_997 - 121);
    assert_eq!(report.rejected_in_all(), 121);
    assert_eq!(report.rejected["too_old"], 11);
    assert_eq!(report.read_bytes, std::fs::metadata(&file).unwrap().len());
    let manifest = String::from_utf8(unpacked("flights-2013-01.dirty.manifest.csv.gz")).unwrap();
    let bad = manifest.lines().skip(1).filter(|line| !line.contains(",duplicate,"));
    let first: Vec<u64> = bad.take(10).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(report.first_rejected.iter().map(|it| it.line).collect::<Vec<_>>(), first);
    let text = report.to_string();
    let name = file.display();
    assert!(text.starts_with(&format!("{name}:64: missing_timestamp: timestamp is required\n")), "{text}");
    assert!(text.contains("… and 111 more"), "{text}");
}
