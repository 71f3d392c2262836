//! A tidemark that runs, if one answers: what it says of itself.

use super::finding::{Finding, Level};
use crate::commands::status::troubles;
use serde_json::Value;
use std::net::TcpListener;
use tidemark_client::ClientError;

/// What is known of where one should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It was named, or its process is there.
    Here,
    /// If one runs, it may be anywhere.
    Perhaps,
}

pub fn server(url: &str, topic: &str, expected: Expected, answered: &Result<Value, ClientError>) -> Finding {
    let check = "server";
    match answered {
        Ok(status) => standing(url, topic, status),
        Err(ClientError::Refused { status, detail, .. }) if matches!(status.as_u16(), 401 | 403) => Finding::warning(
            check,
            format!("a tidemark answers at {url}, but tells us nothing: {detail}"),
            "give it a key with the scope read: TIDEMARK_KEY, or --key",
        ),
        Err(error) if expected == Expected::Here => Finding::failure(
            check,
            error.to_string(),
            "if its process runs, its log says what it does; a process that answers nothing for minutes may be restarted: nothing is lost by it",
        ),
        Err(error) => Finding::warning(
            check,
            format!("no tidemark answers here ({error}): what follows is seen without one"),
            "if one should run, start it; --url names another address, --data the directory of a `tidemark up`",
        ),
    }
}

fn standing(url: &str, topic: &str, status: &Value) -> Finding {
    let check = "server";
    let troubles = troubles(status);
    if !troubles.is_empty() {
        return Finding::failure(
            check,
            format!("the tidemark at {url} is not well: {}", troubles.join("; ")),
            "`tidemark status --watch` shows how it goes on; the sentence says what it waits for",
        );
    }
    let counted = status["topic"].as_str().unwrap_or("?");
    if counted != topic {
        return Finding::warning(
            check,
            format!("the tidemark at {url} counts the topic `{counted}`, not `{topic}`"),
            "look at --url and --config: they are of two deployments, and so is what follows",
        );
    }
    Finding::ok(check, format!("the tidemark at {url} is well: generation {} of `{counted}` answers", status["generation"]))
}

/// How far the speed layer is behind, as the server says; the alert has the same number.
pub fn speed_lag(status: &Value) -> Finding {
    let lags = status["partitions"].as_array().into_iter().flatten().filter_map(|partition| partition["lag"].as_u64());
    let (sum, worst) = lags.fold((0, 0), |(sum, worst): (u64, u64), lag| (sum + lag, worst.max(lag)));
    let found = format!("answers are {} records behind the topic", super::finding::count(sum));
    let is_late = worst > 100_000;
    Finding {
        check: "speed-lag",
        level: if is_late { Level::Warning } else { Level::Ok },
        found,
        advice: is_late.then(|| "if it grows, more speed layers or speed.threads (up to the number of partitions) are needed; or history is so far behind that speed.max_open_events holds counting up".to_owned()),
    }
}

/// Where nobody answers: whether the address is free to listen at.
pub fn free(at: &str) -> Option<Finding> {
    let error = TcpListener::bind(at).err()?;
    Some(Finding::warning(
        "listen",
        format!("{at} cannot be listened at: {error}"),
        "another program has the port, or it is not this machine's address: take another one (listen, --listen), or end that program",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_server_says_of_itself_is_taken_over() {
        let status = |paused| json!({"topic": "events", "generation": 2, "layers": {"speed": {"paused": paused, "trouble": null}}, "partitions": [{"partition": 0, "ready": true, "lag": 7}, {"partition": 1, "ready": true, "lag": 100_001}]});
        let judged = |topic, expected, answered| server("http://t", topic, expected, &answered);
        assert!(judged("events", Expected::Here, Ok(status(false))).found.contains("generation 2 of `events`"));
        assert_eq!(judged("other", Expected::Here, Ok(status(false))).level, Level::Warning);
        let ill = judged("events", Expected::Perhaps, Ok(status(true)));
        assert!(ill.level == Level::Failure && ill.found.contains("speed layer is paused"), "{ill:?}");
        let gone = || Err(ClientError::Unavailable { url: "http://t".into(), reason: "refused".into() });
        assert_eq!(
            [judged("events", Expected::Here, gone()).level, judged("events", Expected::Perhaps, gone()).level],
            [Level::Failure, Level::Warning]
        );
        let lag = speed_lag(&status(false));
        assert!(lag.level == Level::Warning && lag.found.contains("100,008"), "{lag:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_said() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = taken.local_addr().expect("an address").to_string();
        assert!(free(&at).is_some_and(|said| said.found.contains(&at)));
        drop(taken);
        assert_eq!(free(&at), None);
    }
}
