//! The data directory of `tidemark up`: one owner at a time, and a small file that tells others where things listen.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A data directory, locked for this process for as long as the value lives.
///
/// ```text
/// DIR/lock           held by flock, our pid inside
/// DIR/tidemark.json  [`Runtime`], while running
/// DIR/kafka  DIR/clickhouse  DIR/logs
/// ```
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// The lock belongs to this open file: the kernel lets it go when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates what is missing and takes the lock.
    ///
    /// # Errors
    /// [`Error::DirectoryLocked`] if another process has it, [`Error::StaleChild`] if an engine of an earlier run still lives.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        // Of this user alone: there is no password to what listens for it.
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::file("create the directory", dir))?;
        let root = dir.canonicalize().map_err(Error::file("open the directory", dir))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::file("open the lock", &path))?;
        if !try_lock(&lock).map_err(Error::file("lock", &path))? {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(Error::DirectoryLocked { dir: root, pid: pid.trim().parse().ok() });
        }
        let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(Error::file("write the lock", &path))?;

        let this = Self { root, _lock: lock };
        for part in [this.kafka(), this.clickhouse(), this.logs()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&part).map_err(Error::file("create the directory", &part))?;
            // Earlier versions made it for everybody.
            fs::set_permissions(&part, Permissions::from_mode(0o700)).map_err(Error::file("close the directory", &part))?;
        }
        this.refuse_stale_children()?;
        this.remove_runtime();
        Ok(this)
    }

    /// The directory itself, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Kafka's directory.
    #[must_use]
    pub fn kafka(&self) -> PathBuf {
        self.root.join("kafka")
    }

    /// The engine's directory.
    #[must_use]
    pub fn clickhouse(&self) -> PathBuf {
        self.root.join("clickhouse")
    }

    /// Logs of the children.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Children die with their parent, so this should never find one. If it does, two engines on one directory would be
    /// worse than not starting.
    fn refuse_stale_children(&self) -> Result<(), Error> {
        let Some(runtime) = Runtime::read(&self.root) else {
            return Ok(());
        };
        for (name, pid) in [("Kafka", runtime.kafka_pid), ("the ClickHouse engine", runtime.engine_pid)] {
            let Some(pid) = pid else { continue };
            // A pid can be another program's by now; ours has the directory among its arguments.
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&arguments).contains(&*self.root.to_string_lossy()) {
                return Err(Error::StaleChild { name, pid, dir: self.root.clone() });
            }
        }
        Ok(())
    }

    /// Writes [`Runtime`] so that a reader sees the old or the new one, never half of it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_runtime(&self, runtime: &Runtime) -> Result<(), Error> {
        let (path, new) = (self.root.join(Runtime::FILE), self.root.join("tidemark.json.new"));
        let mut text = serde_json::to_vec_pretty(runtime).unwrap_or_default();
        text.push(b'\n');
        write_secret(&new, &text).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("write", &path))
    }

    /// At a clean stop. A file that is not there is as good as removed.
    pub fn remove_runtime(&self) {
        let _ = fs::remove_file(self.root.join(Runtime::FILE));
    }
}

/// Writes a file that nobody else on this machine can read.
pub(crate) fn write_secret(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text)
}

/// How long a lock may still be seen after its owner let it go: the kernel closes a killed process's files after it is gone,
/// and a child that has been forked and not yet become its program holds a copy.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// False if another process has it.
fn try_lock(lock: &File) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_PATIENCE => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Where a running `tidemark up` listens: `DIR/tidemark.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The owner of the directory.
    pub pid: u32,
    /// Tidemark's own interface, once it listens.
    pub http: Option<String>,
    /// Bootstrap address, `127.0.0.1:PORT`.
    pub kafka: String,
    /// `http://127.0.0.1:PORT`.
    pub clickhouse: String,
    /// Absent while Kafka is down.
    pub kafka_pid: Option<u32>,
    /// Absent while the engine is down.
    pub engine_pid: Option<u32>,
}

impl Runtime {
    /// Its name in the data directory.
    pub const FILE: &str = "tidemark.json";

    /// Reads the file of `dir`. None if nothing runs there; after a kill the file may be there all the same, so a caller
    /// that needs to know asks the addresses.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(Self::FILE)).ok()?).ok()
    }
}

/// Lowest port that [`free_ports`] tries.
const FIRST_PORT: u16 = 15_000;
/// Where it goes on, so that a process is never given a port twice in a row; begins anywhere, so that two processes that
/// start together do not try the same ones.
static NEXT_PORT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let anywhere = RandomState::new().build_hasher().finish() & u64::from(u16::MAX);
    AtomicU16::new(u16::try_from(anywhere).unwrap_or_default())
});

/// `N` different ports on 127.0.0.1 that nobody listens on.
///
/// Not from the kernel's ephemeral range (bind to port 0): while a child is down and its clients try to reconnect, one of
/// their outgoing connections can be given that very port, connect to itself and hold it, and the child cannot come back.
///
/// # Errors
/// [`Error::NoFreePort`].
pub fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let span = first_ephemeral_port().max(FIRST_PORT + 1000) - FIRST_PORT;
    // Held until all are found, so that nobody else is given one meanwhile.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for _ in 0..span {
        if held.len() == N {
            break;
        }
        let port = FIRST_PORT + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % span;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            ports[held.len()] = port;
            held.push(listener);
        }
    }
    if held.len() == N { Ok(ports) } else { Err(Error::NoFreePort) }
}

fn first_ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_by_directory_and_pid() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&first.path().display().to_string()), "{refused}");
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn it_is_of_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let data = DataDir::open(&root).unwrap();
        fs::set_permissions(data.kafka(), Permissions::from_mode(0o755)).unwrap();
        drop(data);
        let data = DataDir::open(&root).unwrap();
        assert_eq!([root, data.kafka(), data.clickhouse(), data.logs()].map(|path| mode(&path)), [0o700; 4]);
    }

    #[test]
    fn a_child_left_over_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let owner = DataDir::open(dir.path()).unwrap();
        // Stands for a stale child: a process that has the directory among its arguments.
        let script = "echo; read line; : \"$0\"";
        let mut stale = std::process::Command::new("sh")
            .args(["-c", script, &owner.path().display().to_string()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its arguments can be read for sure once it runs.
        stale.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        owner.write_runtime(&Runtime { engine_pid: Some(stale.id()), ..Runtime::default() }).unwrap();
        drop(owner);
        let refused = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(refused, Error::StaleChild { pid, .. } if pid == stale.id()), "{refused}");
        stale.kill().unwrap();
        stale.wait().unwrap();
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_runtime_file_reads_as_written_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let owner = DataDir::open(dir.path()).unwrap();
        let runtime = Runtime { pid: 7, kafka: "127.0.0.1:1".into(), kafka_pid: Some(8), ..Runtime::default() };
        owner.write_runtime(&runtime).unwrap();
        assert_eq!(Runtime::read(owner.path()), Some(runtime));
        owner.remove_runtime();
        assert_eq!(Runtime::read(owner.path()), None);
    }

    #[test]
    fn ports_differ_and_are_below_the_ephemeral_range() {
        let ports: [u16; 3] = free_ports().unwrap();
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
        assert!(ports.iter().all(|port| (FIRST_PORT..first_ephemeral_port()).contains(port)), "{ports:?}");
    }
}
