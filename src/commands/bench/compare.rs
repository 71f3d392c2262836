//! `tidemark bench compare`: the speed layer beside what else counts a topic's events by type and window, one after the
//! other, each in a process of its own, on the same topic in the same Kafka. The peers are those of the folder `bench/`.

use super::measured::{children_cpu_secs, peak_mib};
use super::recount;
use super::report::{Figure, Run};
use super::topic::Bench;
use anyhow::{Context as _, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the peers have been built (`make bench-compare` does it)
    #[arg(long)]
    peers: PathBuf,
    #[command(flatten)]
    pub(super) source: super::Source,
}

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);

/// Flink reads private parts of the platform.
const FLINK_OPENS: [&str; 6] = ["util", "lang", "net", "nio", "time", "util.concurrent"];

struct Contender {
    name: &'static str,
    command: Command,
    counts: bool,
}

pub async fn run(arguments: &Arguments, bench: &Bench) -> Result<Run> {
    let recounted = recount::by_type_and_window(&bench.kafka).await?;
    let events = recount::events(&recounted);
    let dir = tempfile::tempdir().context("a directory for the run")?;
    let out = dir.path().join("counts");
    let contenders = contenders(arguments, bench, &dir, &out)?;
    let measured = tokio::task::spawn_blocking(move || {
        contenders
            .into_iter()
            .map(|contender| {
                eprintln!("{}", contender.name);
                let (name, counts) = (contender.name, contender.counts);
                let measured = measure(contender.command).with_context(|| name.to_owned())?;
                if counts {
                    let lines = std::fs::read_to_string(&out).with_context(|| format!("the counts of {name}"))?;
                    ensure!(lines.lines().eq(&recounted), "{name}: the counts differ from the recount");
                    std::fs::remove_file(&out)?;
                }
                Ok((name, measured))
            })
            .collect::<Result<Vec<_>>>()
    })
    .await??;
    let of = |wanted: &str| measured.iter().find(|(name, _)| *name == wanted).map(|(_, measured)| measured);
    let mut figures = Vec::new();
    for (name, measured) in &measured {
        figures.push(Figure::new(format!("{name}: start to end"), "events/s", events as f64 / measured.secs));
        figures.push(Figure::cpu(format!("{name}: CPU"), measured.cpu_secs, events));
        figures.push(Figure::new(format!("{name}: peak resident memory"), "MiB", measured.peak_mib as f64));
    }
    for name in [OURS, OURS_ALIKE] {
        let ours = of(name).context("the speed layer")?;
        for floor_name in [FLOOR, OUR_FLOOR] {
            let floor = of(floor_name).context("the floor")?;
            figures.push(Figure::new(format!("{name} to {floor_name}: CPU"), "times", ours.cpu_secs / floor.cpu_secs));
        }
        for (peer_name, peer) in measured.iter().filter(|(other, _)| !other.starts_with(OURS) && !other.starts_with(FLOOR)) {
            figures.push(Figure::new(format!("{peer_name} to {name}: CPU"), "times", peer.cpu_secs / ours.cpu_secs));
            figures.push(Figure::new(format!("{peer_name} to {name}: time"), "times", peer.secs / ours.secs));
            figures.push(Figure::new(format!("{peer_name} to {name}: memory"), "times", peer.peak_mib as f64 / ours.peak_mib as f64));
        }
    }
    Ok(Run { figures, result: None })
}

const FLOOR: &str = "librdkafka alone";
const OUR_FLOOR: &str = "librdkafka alone, read as tidemark does";
const OURS: &str = "tidemark";
const OURS_NO_DEDUP: &str = "tidemark, no dedup";
/// What the peers do, and no more.
const OURS_ALIKE: &str = "tidemark, one view, no dedup";

fn contenders(arguments: &Arguments, bench: &Bench, dir: &tempfile::TempDir, out: &Path) -> Result<Vec<Contender>> {
    let program = std::env::current_exe().context("finding the program's own file")?;
    let (brokers, topic, text) = (&bench.kafka.bootstrap, &bench.kafka.topic, out.display().to_string());
    let ours = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["bench", words[0], "--kafka", brokers, "--topic", topic]).args(&words[1..]);
        command
    };
    let java = |peer: &str, options: &[String], class: &str, words: &[&str]| -> Result<Command> {
        let place = arguments.peers.join(peer);
        ensure!(place.join("classes").is_dir(), "the peer {} has not been built; run `make bench-compare`", place.display());
        let mut command = Command::new("java");
        let classes = format!("{}:{}/*", place.join("classes").display(), place.join("lib").display());
        command.args(["-Xms1g", "-Xmx2g"]).args(options).args(["-cp", &classes, class, brokers, topic]).args(words);
        Ok(command)
    };
    let state = dir.path().join("streams").display().to_string();
    let opens: Vec<String> = FLINK_OPENS.iter().map(|part| format!("--add-opens=java.base/java.{part}=ALL-UNNAMED")).collect();
    let streams = |form: &str, threads: &str| java("kafka-streams", &[], "peers.Streams", &[form, threads, &state, &text]);
    Ok(vec![
        Contender { name: FLOOR, command: ours(&["floor"]), counts: false },
        Contender { name: OUR_FLOOR, command: ours(&["floor", "--as-tidemark"]), counts: false },
        Contender { name: OURS, command: ours(&["speed", "--out", &text]), counts: true },
        Contender { name: OURS_NO_DEDUP, command: ours(&["speed", "--no-dedup", "--out", &text]), counts: true },
        Contender { name: OURS_ALIKE, command: ours(&["speed", "--one-view", "--no-dedup", "--out", &text]), counts: true },
        Contender { name: "Kafka Streams, local", command: streams("local", "1")?, counts: true },
        Contender { name: "Kafka Streams, groupBy", command: streams("groupby", "2")?, counts: true },
        Contender { name: "Flink SQL", command: java("flink", &opens, "peers.FlinkSql", &["2", &text])?, counts: true },
    ])
}

struct Measured {
    secs: f64,
    cpu_secs: f64,
    peak_mib: u64,
}

/// Runs a program to its end. Its memory is looked at while it runs; its CPU time is the kernel's account of children
/// that have ended.
fn measure(mut command: Command) -> Result<Measured> {
    let (began, before) = (Instant::now(), children_cpu_secs()?);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting it; is it installed?")?;
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // It may end between the two looks.
        most = most.max(peak_mib(child.id()).unwrap_or_default());
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        bail!("it ended with {status}: {said}");
    }
    Ok(Measured { secs: began.elapsed().as_secs_f64(), cpu_secs: children_cpu_secs()? - before, peak_mib: most })
}
