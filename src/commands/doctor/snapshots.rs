//! Redis, in which the speed layer keeps its snapshots.

use super::finding::{Finding, bytes};
use tidemark_snapshot::{Error, Examined};

/// Of `maxmemory`.
const FULL_PERCENT: u64 = 95;
const FILLING_PERCENT: u64 = 80;

/// Whether it can be used; `None` for `found` if there is none in the configuration.
pub fn redis(found: Option<&Result<Examined, Error>>) -> Finding {
    let check = "redis";
    match found {
        None => Finding::ok(check, "none is configured: the speed layer counts in memory, and begins anew from the topic when it starts"),
        Some(Err(error @ Error::Refused { .. })) => Finding::failure(
            check,
            error.to_string(),
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration; or look at redis.user, password and the files in [redis]",
        ),
        Some(Err(error)) => Finding::failure(
            check,
            error.to_string(),
            "look at the server and its log, and at redis.urls. Until it answers, serving nodes answer from history alone, and a speed layer that starts reads the topic",
        ),
        Some(Ok(Examined { version, evicted, .. })) if *evicted > 0 => Finding::warning(
            check,
            format!(
                "version {version}, policy noeviction, but it has removed {evicted} keys since it started: the policy was another one, or somebody else's keys have a time to live"
            ),
            "restart the speed layers one after the other, and they write anew what is missing; keep noeviction in its configuration file",
        ),
        Some(Ok(Examined { version, .. })) => Finding::ok(check, format!("version {version}, policy noeviction")),
    }
}

pub fn memory(found: &Examined) -> Finding {
    let check = "redis-memory";
    let Examined { used_bytes, max_bytes, .. } = *found;
    if max_bytes == 0 {
        return Finding::ok(check, format!("{} are used; maxmemory is not set", bytes(used_bytes)));
    }
    let percent = used_bytes.saturating_mul(100) / max_bytes;
    let said = format!("{} of {} are used", bytes(used_bytes), bytes(max_bytes));
    let advice = "raise maxmemory: a full Redis refuses writes, and snapshots get old. What an open epoch takes is in docs/operations.md";
    match percent {
        FULL_PERCENT.. => Finding::failure(check, said, advice),
        FILLING_PERCENT.. => Finding::warning(check, said, advice),
        _ => Finding::ok(check, said),
    }
}

/// What is there needs no backup: lost, it is written again.
pub fn persistence(found: &Examined) -> Finding {
    let check = "redis-persistence";
    let off = "CONFIG SET save \"\" and CONFIG SET appendonly no, and the same in its configuration: what is there is written again if it is lost";
    let saves = found.saves.as_deref().unwrap_or_default();
    if found.save_failed && (found.saves.is_none() || !saves.is_empty()) {
        return Finding::failure(
            check,
            "its last save to disk has failed, and it refuses writes meanwhile (stop-writes-on-bgsave-error)",
            off,
        );
    }
    match (found.appends, saves) {
        (true, _) => Finding::warning(check, "it writes each change to a file (appendonly)", off),
        (false, "") if found.saves.is_none() => Finding::ok(check, "it appends to no file; whether it saves it does not tell"),
        (false, "") => Finding::ok(check, "it keeps nothing on disk, which is enough"),
        (false, saves) => Finding::warning(check, format!("it saves itself to disk (save {saves})"), off),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn well() -> Examined {
        Examined { version: "7.0.15".into(), used_bytes: 10, max_bytes: 100, saves: Some(String::new()), ..Examined::default() }
    }

    #[test]
    fn a_redis_that_may_forget_is_a_failure() {
        let refused = Error::Refused { at: "redis://r".into(), reason: "its maxmemory-policy is allkeys-lru".into() };
        let said = redis(Some(&Err(refused)));
        assert!(
            said.level == Level::Failure
                && said.found.contains("allkeys-lru")
                && said.advice.is_some_and(|advice| advice.contains("noeviction"))
        );
        assert_eq!(redis(Some(&Err(Error::Unavailable { at: "r".into(), reason: "gone".into() }))).level, Level::Failure);
        assert_eq!((redis(None).level, redis(Some(&Ok(well()))).level), (Level::Ok, Level::Ok));
        assert_eq!(redis(Some(&Ok(Examined { evicted: 3, ..well() }))).level, Level::Warning);
    }

    #[test]
    fn memory_must_have_room_and_the_disk_is_not_needed() {
        let used = |used_bytes| memory(&Examined { used_bytes, ..well() }).level;
        assert_eq!([used(10), used(80), used(95)], [Level::Ok, Level::Warning, Level::Failure]);
        let saves = |saves: Option<&str>, appends, save_failed| {
            persistence(&Examined { saves: saves.map(str::to_owned), appends, save_failed, ..well() }).level
        };
        assert_eq!([saves(Some(""), false, false), saves(None, false, false), saves(Some(""), false, true)], [Level::Ok; 3]);
        assert_eq!([saves(Some("3600 1"), false, false), saves(Some(""), true, false)], [Level::Warning; 2]);
        assert_eq!([saves(Some("3600 1"), false, true), saves(None, false, true)], [Level::Failure; 2]);
    }
}
