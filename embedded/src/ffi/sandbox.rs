//! Landlock: from here on, this process opens only the files it was given, and connects to nobody.
//!
//! The engine's grants stop table functions such as `file()` and `url()`, but the scalar function `file('/etc/passwd')` asks
//! for no right, and `eval()` or a filter setting can hide it from any look at the text. The kernel cannot be talked into it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// Everything below REFER, TRUNCATE and IOCTL_DEV, which came later: execute, write, read, make and remove.
const ALL_FIRST: u64 = (1 << 13) - 1;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
/// The rights that a rule on a file, rather than on a directory, may name.
const OF_A_FILE: u64 = (1 << 0) | (1 << 1) | READ_FILE | TRUNCATE;
const CONNECT_TCP: u64 = 1 << 1;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

#[repr(C)]
struct Ruleset {
    handled_fs: u64,
    handled_net: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// Confines this thread and all it will start: `writable` for all uses, `readable` for reading. Paths that are not there are
/// left out. Gives false, and changes nothing, where the kernel has no Landlock (before 5.19, or switched off).
pub(crate) fn confine(readable: &[&Path], writable: &[&Path]) -> io::Result<bool> {
    // SAFETY: with this flag the call takes no pointer and gives the version, or an error.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0_usize, CREATE_RULESET_VERSION) };
    // Version 1 forbids every rename between directories, and the engine lives by those.
    if version < 2 {
        return Ok(false);
    }
    let all = ALL_FIRST | REFER | if version >= 3 { TRUNCATE } else { 0 };
    let ruleset = Ruleset { handled_fs: all, handled_net: if version >= 4 { CONNECT_TCP } else { 0 } };
    let size = if version >= 4 { size_of::<Ruleset>() } else { size_of::<u64>() };
    // SAFETY: `ruleset` is readable for `size` bytes, which is what this version of the kernel knows.
    let fd = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0_u32) })?;
    // SAFETY: a new descriptor that nobody else has.
    let rules = unsafe { OwnedFd::from_raw_fd(fd) };
    for (paths, allowed) in [(readable, READ_FILE | READ_DIR), (writable, all)] {
        for path in paths {
            allow(&rules, path, allowed)?;
        }
    }
    // SAFETY: neither call takes a pointer; `rules` is open.
    unsafe {
        check(libc::c_long::from(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))?;
        check(libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32))?;
    }
    Ok(true)
}

fn allow(rules: &OwnedFd, path: &Path, allowed: u64) -> io::Result<()> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path);
    let place = match opened {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let allowed = if place.metadata()?.is_dir() { allowed } else { allowed & OF_A_FILE };
    let rule = PathBeneath { allowed, parent: place.as_raw_fd() };
    // SAFETY: `rule` has the layout that this kind of rule has, and lives through the call, as do both descriptors.
    let status = unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0_u32) };
    check(status).map(drop)
}

/// The result of a system call that fits a descriptor, or its error.
fn check(status: libc::c_long) -> io::Result<RawFd> {
    match RawFd::try_from(status) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
