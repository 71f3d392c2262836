//! Room on disks.

use super::finding::{Finding, Level, bytes};
use std::path::Path;

/// Less than this of a disk, or of what a merge may need, is too little.
const FEW_PERCENT: u64 = 5;
const LOW_PERCENT: u64 = 15;
const FEW_BYTES: u64 = 1 << 30;
/// Days until it is full: the alert pages at one.
const FEW_DAYS: u64 = 1;
const LOW_DAYS: u64 = 14;

const ADVICE: &str =
    "give it more room, or less to keep: the topic's retention (only beyond what history has), old generations (`tidemark replay drop`)";

/// `grows`: bytes a day.
pub fn judge(check: &'static str, name: &str, free: u64, total: u64, grows: Option<u64>) -> Finding {
    let days = grows.filter(|grows| *grows > 0).map(|grows| free / grows);
    let percent = u64::try_from(u128::from(free) * 100 / u128::from(total.max(1))).unwrap_or(100);
    let growth = match (grows, days) {
        (Some(grows), Some(days)) if days < 3650 => format!("; it grows by {} a day, and is full in {days} days", bytes(grows)),
        _ => String::new(),
    };
    let found = format!("{name} has {} of {} free{growth}", bytes(free), bytes(total));
    let level = if percent < FEW_PERCENT || free < FEW_BYTES || days.is_some_and(|days| days < FEW_DAYS) {
        Level::Failure
    } else if percent < LOW_PERCENT || days.is_some_and(|days| days < LOW_DAYS) {
        Level::Warning
    } else {
        Level::Ok
    };
    Finding { check, level, found, advice: (level > Level::Ok).then(|| ADVICE.to_owned()) }
}

/// The disk of a directory, or of where it would be made. Blocks.
pub fn of_directory(check: &'static str, directory: &Path, grows: Option<u64>) -> Finding {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(room) => judge(
            check,
            &format!("the disk of {}", directory.display()),
            room.f_bavail * room.f_frsize,
            room.f_blocks * room.f_frsize,
            grows,
        ),
        Err(error) => Finding::failure(
            check,
            format!("{} cannot be looked at: {error}", there.display()),
            "look at the path and its rights (data, --data)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_its_room_and_by_how_soon_it_is_full() {
        let gib = |n: u64| n << 30;
        let level = |free, total, grows| judge("disk", "it", free, total, grows).level;
        assert_eq!(level(gib(50), gib(100), None), Level::Ok);
        assert_eq!(level(gib(14), gib(100), None), Level::Warning);
        assert_eq!(level(gib(4), gib(100), None), Level::Failure);
        assert_eq!(level(gib(1) - 1, gib(4), None), Level::Failure);
        assert_eq!(level(gib(50), gib(100), Some(gib(1))), Level::Ok);
        assert_eq!(level(gib(50), gib(100), Some(gib(4))), Level::Warning);
        assert_eq!(level(gib(50), gib(100), Some(gib(51))), Level::Failure);
        let said = judge("disk", "it", gib(50), gib(100), Some(gib(4)));
        assert!(said.found.contains("full in 12 days") && said.advice.is_some(), "{said:?}");
    }
}
