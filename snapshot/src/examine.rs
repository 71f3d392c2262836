//! What an operator wants to know of a Redis. Nothing is decided here.

use crate::connection::{Link, gather};
use crate::{Error, Server};
use redis::{RedisResult, Value, cmd};
use std::time::SystemTime;
use tidemark_core::skew::Skew;

/// A Redis, or of a cluster the worst of its nodes in each respect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Examined {
    pub version: String,
    /// `None` if it does not tell the time.
    pub clock: Option<Skew>,
    pub used_bytes: u64,
    /// 0: as much as the machine has.
    pub max_bytes: u64,
    /// Each write goes to a file as well.
    pub appends: bool,
    /// When it writes all to a file, in its own words; empty: never, `None` if it does not tell.
    pub saves: Option<String>,
    /// The last such write failed; a Redis refuses writes then, unless it was told otherwise.
    pub save_failed: bool,
    /// Keys that have been removed to make room.
    pub evicted: u64,
}

/// Looks at a Redis; refuses one that would not do, as [`crate::Store::check`] does.
pub async fn examine(server: &Server) -> Result<Examined, Error> {
    let link = Link::new(server)?;
    let info = link.ask(async |redis| cmd("INFO").query_async::<Value>(redis).await).await?;
    let mut text = String::new();
    gather(&info, &mut text);
    // What it may not be asked for, it does not tell: that is no error.
    let asked = now_ms();
    let time: Option<Value> = link.ask(async |redis| Ok(cmd("TIME").query_async(redis).await.ok())).await?;
    let clock = time.as_ref().and_then(clock).map(|theirs| Skew::seen(asked, theirs, now_ms()));
    let saves: Option<Value> =
        link.ask(async |redis| -> RedisResult<_> { Ok(cmd("CONFIG").arg("GET").arg("save").query_async(redis).await.ok()) }).await?;
    Ok(Examined { clock, saves: saves.as_ref().map(setting), ..read(&text) })
}

fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// Reads what `INFO` says, of one node or of several.
fn read(info: &str) -> Examined {
    let all = |name: &str| -> Vec<&str> {
        info.lines().filter_map(|line| line.trim().split_once(':')).filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
    };
    let numbers = |name| -> Vec<u64> { all(name).iter().map(|value| value.parse().unwrap_or(0)).collect() };
    // The node whose memory is the fullest; one without a bound is never full.
    let fullness = |(used, max): &(u64, u64)| u128::from(*used) * 10_000 / u128::from((*max).max(1)) * u128::from(u8::from(*max > 0));
    let memory = numbers("used_memory").into_iter().zip(numbers("maxmemory"));
    let (used_bytes, max_bytes) = memory.max_by_key(fullness).unwrap_or_default();
    Examined {
        version: all("redis_version").first().copied().unwrap_or("?").to_owned(),
        clock: None,
        used_bytes,
        max_bytes,
        appends: all("aof_enabled").contains(&"1"),
        saves: None,
        save_failed: all("rdb_last_bgsave_status").contains(&"err"),
        evicted: numbers("evicted_keys").into_iter().sum(),
    }
}

/// Seconds and microseconds.
fn clock(time: &Value) -> Option<i64> {
    let Value::Array(parts) = time else { return None };
    let number = |part: &Value| match part {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse::<i64>().ok(),
        Value::Int(number) => Some(*number),
        _ => None,
    };
    let [seconds, micros] = parts.as_slice() else { return None };
    number(seconds)?.checked_mul(1000)?.checked_add(number(micros)? / 1000)
}

/// The value of the one setting that was asked for.
fn setting(answer: &Value) -> String {
    let mut text = String::new();
    gather(answer, &mut text);
    text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "save").collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_nodes_the_worst_is_told() {
        let node = |used: u64, max: u64, status: &str| {
            format!(
                "# Server\r\nredis_version:7.0.15\r\nused_memory:{used}\r\nmaxmemory:{max}\r\naof_enabled:0\r\nrdb_last_bgsave_status:{status}\r\nevicted_keys:2\r\n"
            )
        };
        let one = read(&node(10, 0, "ok"));
        assert_eq!((one.used_bytes, one.max_bytes, one.save_failed, &*one.version), (10, 0, false, "7.0.15"));
        let both = read(&(node(500, 1000, "ok") + &node(90, 100, "err") + &node(5000, 0, "ok")));
        assert_eq!((both.used_bytes, both.max_bytes, both.save_failed, both.evicted), (90, 100, true, 6));
    }

    #[test]
    fn a_clock_is_seconds_and_microseconds() {
        let part = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(clock(&Value::Array(vec![part("1700000000"), part("250999")])), Some(1_700_000_000_250));
        assert_eq!(clock(&Value::Array(vec![part("17")])), None);
        let answer = Value::Array(vec![part("save"), part("3600 1 300 100")]);
        assert_eq!((setting(&answer), setting(&Value::Array(vec![part("save"), part("")]))), ("3600 1 300 100".into(), String::new()));
    }
}
