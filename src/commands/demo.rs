//! The sample stream of `up --demo`: a week of real flights, over and over, as if they happened now.

use anyhow::{Context as _, Result};
use std::time::Duration;
use tidemark_topic::{Outgoing, Producer, now_ms};

/// See demo/README.md.
const FLIGHTS: &[u8] = include_bytes!("../../demo/flights.ndjson.zst");

/// Events a second, sent in pieces of a tenth.
const RATE: usize = 50;
const PIECES: u32 = 10;

/// Events that the hour before the start is filled with, so that the first look shows something.
const PAST: usize = 6_000;
const HOUR_MS: i64 = 60 * 60 * 1000;

/// Sends until the task is dropped.
pub async fn stream(producer: impl Producer) -> Result<()> {
    let text = String::from_utf8(zstd::decode_all(FLIGHTS).context("the demo's flights")?).context("the demo's flights")?;
    let flights =
        text.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Map<_, _>>, _>>().context("the demo's flights")?;
    let start = now_ms();
    let mut events =
        flights.iter().cycle().enumerate().map(|(n, flight)| move |at_ms: i64| retimed(flight, &format!("demo-{start}-{n}"), at_ms));
    let past: Vec<Vec<u8>> = (0..PAST)
        .filter_map(|n| {
            events.next().map(|event| event(start - HOUR_MS + HOUR_MS * i64::try_from(n).unwrap_or(0) / i64::try_from(PAST).unwrap_or(1)))
        })
        .collect();
    send(&producer, &past).await?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / PIECES);
    loop {
        tick.tick().await;
        let piece: Vec<Vec<u8>> = events.by_ref().take(RATE / PIECES as usize).map(|event| event(now_ms())).collect();
        send(&producer, &piece).await?;
    }
}

fn retimed(flight: &serde_json::Map<String, serde_json::Value>, id: &str, at_ms: i64) -> Vec<u8> {
    let mut event = flight.clone();
    event.insert("event_id".into(), id.into());
    event.insert("timestamp".into(), at_ms.into());
    serde_json::Value::Object(event).to_string().into_bytes()
}

async fn send(producer: &impl Producer, events: &[Vec<u8>]) -> Result<()> {
    let records: Vec<Outgoing<'_>> = events.iter().map(|event| Outgoing { payload: Some(event), ..Outgoing::default() }).collect();
    for sent in producer.send_batch(&records).await {
        sent.context("sending the sample stream")?;
    }
    Ok(())
}
