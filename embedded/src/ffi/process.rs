//! Process calls: die with the parent, signal a child, leave without destructors.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes the kernel kill the child with SIGKILL when the thread that spawns it ends, however it ends.
///
/// "The thread", not "the process": spawn from a thread that lives as long as the process (see [`crate::child`]). The
/// setting survives `exec`, so it holds for `java` too.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG and getppid take no pointers and are async-signal-safe, as code between
        // fork and exec must be; building an io::Error from errno or from a kind does not allocate.
        let (set, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died between fork and prctl; then nobody would ever send the signal.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: the closure calls only what is allowed between fork and exec, see above.
    unsafe { command.pre_exec(in_child) };
}

/// Asks a process to end. A process that is already gone is not an error: the caller waits for its exit anyway.
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill takes no pointers. The pid is a child that has not been waited for, so it cannot have been reused.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Ends this process without running destructors or exit handlers: the engine's own are not reliable.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}
