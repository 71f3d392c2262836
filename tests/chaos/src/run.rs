//! One run: a deployment, a load, askers, and one fault after the other; judged all along.

use crate::asker::{Asker, Taken, raw};
use crate::events::probe;
use crate::fault::{Context, Deployment, Fault, Kind, TOPIC, wait_exact};
use crate::load::Load;
use crate::recorder::Recorder;
use crate::report::Report;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Position};
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::{Recount, Verdict};
use tidemark_tests::wait::{self, Stopping};

pub const EPOCH_BITS: u8 = 8;
pub const PARTITIONS: u32 = 4;
/// Epochs close every few seconds, blocks are small, and the group notices a dead member soon.
pub const CONFIG: &str = "[kafka]\npartitions = 4\nsession_timeout_ms = 6000\n[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 300\n";
/// The client of a process that stands still gives up.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The load before the first fault, and between two.
const CALM: Duration = Duration::from_secs(2);
const SETTLED_DEADLINE: Duration = Duration::from_secs(240);
const ASKERS: u64 = 3;
/// So many answers are judged together.
const JUDGED_AT_ONCE: usize = 2_000;

/// How to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub lasts: Duration,
    pub only: Vec<String>,
    pub short: bool,
}

/// What has been judged.
#[derive(Debug, Default)]
struct Judged {
    answers: usize,
    live: usize,
}

pub fn run<D: Deployment>(shape: &'static str, plan: &Plan, start: fn() -> D, faults: Vec<Fault<D>>) {
    println!("{shape}: --seed {}", plan.seed);
    let mut deployment = start();
    let report = Report::new(shape);
    let (load, asker) = (Load::default(), Asker::new(report.began));
    let (recorder, recorded) = (Recorder::new(TOPIC, PARTITIONS, EPOCH_BITS), AtomicBool::new(false));
    let (doors, nodes, kafka) = (deployment.doors(), deployment.nodes(), deployment.kafka());
    let judged = std::thread::scope(|scope| {
        // However this ends, the others must end too.
        let _stopping = (Stopping(&load.stop), Stopping(&asker.stop), Stopping(&recorded));
        let mut workers = vec![scope.spawn(|| recorder.follow(&kafka, &recorded))];
        workers.push(scope.spawn(|| load.by_http(&doors, "a", plan.seed)));
        workers.push(scope.spawn(|| load.by_http(&doors, "b", plan.seed)));
        workers.push(scope.spawn(|| load.by_kafka(&kafka, TOPIC, plan.seed)));
        let (asker, nodes) = (&asker, &nodes);
        workers.extend((0..ASKERS).map(|n| scope.spawn(move || asker.ask(nodes, plan.seed + n))));
        let mut judged = Judged::default();
        let context = Context { chance: Chance::of(plan.seed), report: &report, asker, load: &load };
        disturb(&mut deployment, plan, &faults, context, &mut |must: bool| {
            let ended = workers.iter().position(ScopedJoinHandle::is_finished);
            if let Some(ended) = ended {
                workers.swap_remove(ended).join().expect("the load and the askers go on");
            }
            if must {
                judged.judge(&recorder, &asker.take());
            }
        });
        report.say("all faults are over");
        load.stop.store(true, Ordering::Relaxed);
        asker.stop.store(true, Ordering::Relaxed);
        settle(&deployment);
        judged.judge(&recorder, &asker.take());
        check_at_last(&deployment, &load, &recorder, &mut judged);
        judged
    });
    let acknowledged = load.acknowledged();
    report.conclude(&format!(
        "{} answers and {} permalinks judged, 0 wrong; {} answers with a live part; {} refused; {} events acknowledged, 0 lost, \
         after {} attempts without an answer; {} records in the topic (seed {})",
        judged.answers,
        asker.repeated.load(Ordering::Relaxed),
        judged.live,
        asker.refused.load(Ordering::Relaxed),
        acknowledged.events,
        acknowledged.repeated,
        recorder.recount().ends.values().sum::<u64>(),
        plan.seed
    ));
    deployment.stop();
}

/// Does one fault after the other until the time is over; calls `look` all the time, and with `true` after each fault.
fn disturb<D: Deployment>(deployment: &mut D, plan: &Plan, faults: &[Fault<D>], mut context: Context<'_>, look: &mut impl FnMut(bool)) {
    let is_wanted = |fault: &&Fault<D>| {
        (plan.only.is_empty() || plan.only.iter().any(|name| fault.name.contains(name.as_str())))
            && !(plan.short && (matches!(fault.kind, Kind::Long) || fault.lasts > Duration::from_secs(8)))
    };
    let mut rest: Vec<&Fault<D>> = Vec::new();
    let mut done: HashSet<&str> = HashSet::new();
    rest_for(CALM, look);
    while context.report.began.elapsed() < plan.lasts {
        if rest.is_empty() {
            rest.extend(faults.iter().filter(is_wanted).filter(|fault| fault.kind != Kind::Once || !done.contains(fault.name)));
            assert!(!rest.is_empty(), "no fault is named so");
        }
        let fault = rest.swap_remove(context.chance.below(rest.len()));
        done.insert(fault.name);
        let more: Vec<&Fault<D>> = faults.iter().filter(is_wanted).filter(|of| of.is_blind && of.name != fault.name).collect();
        let second = (fault.kind == Kind::Passing && !more.is_empty() && context.chance.once_in(3)).then(|| *context.chance.pick(&more));
        strike(deployment, fault, second, &mut context, look);
        rest_for(CALM, look);
    }
}

fn strike<D: Deployment>(
    deployment: &mut D,
    fault: &Fault<D>,
    second: Option<&Fault<D>>,
    context: &mut Context<'_>,
    look: &mut impl FnMut(bool),
) {
    context.report.say(fault.name);
    let began = Instant::now();
    let undo = (fault.begin)(deployment, context);
    let undo_second = second.map(|second| {
        rest_for(fault.lasts / 3, look);
        context.report.say(&format!("and meanwhile: {}", second.name));
        (second.begin)(deployment, context)
    });
    rest_for(fault.lasts.saturating_sub(began.elapsed()), look);
    let over = if fault.kind == Kind::Kill { began } else { Instant::now() };
    if let Some(undo) = undo_second {
        undo(deployment, context);
    }
    undo(deployment, context);
    wait_exact(deployment, context.load);
    let took = over.elapsed();
    context.report.say(&format!("exact again after {:.1} s", took.as_secs_f64()));
    context.report.recovered(fault.name, fault.kind, took);
    look(true);
}

fn rest_for(time: Duration, look: &mut impl FnMut(bool)) {
    let began = Instant::now();
    while began.elapsed() < time {
        look(false);
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Judged {
    fn judge(&mut self, recorder: &Recorder, taken: &[Taken]) {
        let mut position = Position::new();
        for (partition, next) in taken.iter().flat_map(|taken| &taken.answer.cut) {
            let at = position.entry(*partition).or_default();
            *at = (*next).max(*at);
        }
        recorder.wait_for(&position);
        let recount = recorder.recount();
        for part in taken.chunks(JUDGED_AT_ONCE) {
            let pairs: Vec<(&Question, &Answer)> = part.iter().map(|taken| (&taken.question, &taken.answer)).collect();
            let wrong = recount.wrong(&pairs);
            let said: Vec<String> =
                wrong.iter().take(5).map(|(n, what)| format!("at {:.1} s: {what}", part[*n].at.as_secs_f64())).collect();
            assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), part.len(), said.join("\n"));
        }
        let is_live = |answer: &Answer| answer.cut.iter().any(|(partition, cut)| Some(cut) > answer.mark.get(partition));
        self.answers += taken.len();
        self.live += taken.iter().filter(|taken| is_live(&taken.answer)).count();
    }
}

/// Waits until history has everything and each full epoch is closed, as every node sees it.
fn settle<D: Deployment>(deployment: &D) {
    for node in deployment.nodes() {
        wait::until("history reaches the log's end and every full epoch closes", SETTLED_DEADLINE, || is_settled(&node).then_some(()));
    }
}

fn is_settled(node: &Client) -> bool {
    let Some(status) = node.try_get("/v1/status").ok().filter(|reply| reply.status == 200).map(|reply| reply.json()) else { return false };
    let span = 1 << EPOCH_BITS;
    assert_eq!(status["broken_invariants"], 0, "an invariant is broken: {status:#}");
    let partitions = status["partitions"].as_array().expect("the status lists partitions");
    partitions.iter().all(|at| {
        let (end, number) = (at["end"].as_u64(), |name: &str| at[name].as_u64());
        end.is_some() && number("speed") == end && number("history") == end && number("mark") == end.map(|end| end / span * span)
    })
}

/// Each node gives everything, from every roll-up and from raw events; nothing acknowledged is missing; what is counted adds up.
fn check_at_last<D: Deployment>(deployment: &D, load: &Load, recorder: &Recorder, judged: &mut Judged) {
    load.post(&deployment.doors(), &[probe()]);
    let acknowledged = load.acknowledged();
    let mut chance = Chance::of(0);
    let mut questions: Vec<Question> = (0..6).map(|_| raw(&mut chance)).collect();
    for step in ["total", "5m", "15m", "1h", "1d", "1w"] {
        questions.extend([Question::by(step, &[]), Question::by(step, &["event_type"]), Question::by(step, &["product_id", "event_type"])]);
    }
    let nodes = deployment.nodes();
    let ask = |(question, node): (&Question, &Client)| {
        let answer = question.ask(node, Some(&acknowledged.position));
        Taken { question: question.clone(), answer, at: Duration::ZERO }
    };
    let taken: Vec<Taken> = questions.iter().flat_map(|question| nodes.iter().map(move |node| (question, node))).map(ask).collect();
    judged.judge(recorder, &taken);
    let recount = recorder.recount();
    let counted: HashSet<&str> = recount.events().filter_map(|event| event.id.as_deref()).collect();
    let lost: Vec<&String> = acknowledged.ids.iter().filter(|id| !counted.contains(id.as_str())).take(5).collect();
    assert!(lost.is_empty(), "acknowledged, and not counted: {lost:?}");
    nodes.iter().for_each(|node| check_accounts(&node.status(), &recount));
}

/// What history has accounted for is what the recount has, partition by partition.
fn check_accounts(status: &Value, recount: &Recount) {
    for at in status["partitions"].as_array().expect("the status lists partitions") {
        let number = |name: &str| at["accounted"][name].as_u64().unwrap_or_else(|| panic!("no account of {name}: {at}"));
        let partition = u32::try_from(at["partition"].as_u64().expect("a number")).expect("a partition");
        let records = recount.partitions[&partition].iter().filter(|(offset, _)| (number("from")..number("to")).contains(offset));
        let (mut events, mut duplicates, mut dead_letters) = (0, 0, 0);
        records.for_each(|(_, verdict)| match verdict {
            Verdict::Event(_) => events += 1,
            Verdict::Duplicate => duplicates += 1,
            Verdict::DeadLetter(_) => dead_letters += 1,
        });
        let found = (number("events"), number("duplicates"), number("dead_letters"), number("holes"));
        assert_eq!(found, (events, duplicates, dead_letters, 0), "{at}");
    }
}
