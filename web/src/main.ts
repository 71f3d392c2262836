// The dashboard: asks, listens, and shows what it hears.

import { showAccount } from "./account.ts";
import { Locked, Refused, get, now, remember } from "./api.ts";
import { showTroubles, silent, troubles, type Trouble } from "./banner.ts";
import { Colours, board, type Board } from "./board.ts";
import { Chart } from "./chart.ts";
import { Controls } from "./controls.ts";
import { byId, say } from "./dom.ts";
import { showHeadline } from "./headline.ts";
import { Held, rowsOf, type Row } from "./held.ts";
import { Letters } from "./letters.ts";
import { Keep } from "./keep.ts";
import { listen, type Told } from "./live.ts";
import { onTheme } from "./palette.ts";
import { query, range, read, stepOf, write, type Question } from "./question.ts";
import { showStanding } from "./standing.ts";
import type { Status } from "./status.ts";
import { Top, recolour, showRevisions, showWindows } from "./tables.ts";
import { showFreshness } from "./tide.ts";
import { buckets } from "./time.ts";

/** Between two looks at the status, and between two pictures: where less should move, once a second. */
const LOOK = 1_000;
const PICTURE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1_000 : 100;

/** The period before is asked for again: late events come into it, too. */
const COMPARE = 60_000;

/** How long an answer that does not come is waited for, before the server is said to be silent. */
const PATIENCE = 5_000;

class Dashboard {
  private question: Question = read(location.search);
  private total = new Held([]);
  private groups: Held | null = null;
  /** Rows of the period before, which ends where what is shown begins; `null` until they have come. */
  private before: { rows: Row[] | null; from: number; at: number } | null = null;
  private status: Status | null = null;
  private readonly colours = new Colours();
  private listening = new AbortController();
  /** Since when the status, or a stream, has been lost, and why. */
  private lost: { since: number; why: string } | null = null;
  private readonly lostStreams = new Map<string, string>();
  private readonly streamTroubles = new Map<string, string>();
  private readonly controls = new Controls((question) => this.ask(question), now);
  private readonly chart = new Chart(byId("chart"), ({ from, to }) => this.ask({ ...this.question, last: null, from, to }));
  private readonly top = new Top(byId("top"), (by) => this.controls.filter(by));
  private readonly keep = new Keep(byId("keep"), (error) => {
    if (error instanceof Locked) this.refused(error);
    else say(byId("refused"), `The file cannot be had: ${error.message}.`);
  });
  private readonly letters = new Letters(
    () => this.question.zone,
    (error) => this.refused(error),
  );
  private locked = false;
  private drawing = false;
  /** When the last picture was drawn, and what it took, in milliseconds. */
  private drawn = 0;
  private took = 0;
  private tabled = 0;

  start(): void {
    history.replaceState(null, "", write(this.question));
    addEventListener("popstate", () => this.turn(read(location.search)));
    document.addEventListener("visibilitychange", () => this.seen());
    byId("door").addEventListener("submit", (event) => this.open(event));
    byId("table").addEventListener("toggle", () => ((this.tabled = 0), this.draw()));
    onTheme(() => (recolour(), this.chart.recolour(), this.draw()));
    this.turn(this.question);
    void this.letters.first();
    void this.look();
  }

  /** Somebody asks something else. */
  private ask(question: Question): void {
    if (write(question) !== write(this.question)) history.pushState(null, "", write(question));
    this.turn(question);
  }

  private turn(question: Question): void {
    this.question = question;
    this.controls.show(question);
    this.total = new Held([]);
    this.groups = question.groupBy.length ? new Held(question.groupBy) : null;
    this.before = null;
    say(byId("refused"), "");
    byId("main").dataset["asking"] = "";
    delete byId("main").dataset["refused"];
    this.listen();
  }

  private listen(): void {
    this.listening.abort();
    this.listening = new AbortController();
    this.lostStreams.clear();
    this.streamTroubles.clear();
    if (document.hidden || this.locked) return;
    this.follow(this.total, query(this.question, now(), false));
    if (this.groups) this.follow(this.groups, query(this.question, now(), true));
    void this.compare();
  }

  private follow(held: Held, asked: string): void {
    const { signal } = this.listening;
    const told = (event: Told) => {
      if (signal.aborted) return;
      if (event.kind === "trouble") {
        const { detail } = event.data as { detail: string | null };
        if (detail) this.streamTroubles.set(asked, detail);
        else this.streamTroubles.delete(asked);
        this.warn();
      } else if (held.hear(event, now(), (window, watermark) => this.isOver(window, watermark))) {
        this.draw();
      }
    };
    const connected = () => (this.lostStreams.delete(asked), this.warn());
    const lost = (why: Error) => {
      if (signal.aborted) return;
      if (why instanceof Refused) byId("main").dataset["refused"] = "";
      if (why instanceof Locked || why instanceof Refused) this.refused(why);
      else this.lostStreams.set(asked, why.message);
      this.warn();
    };
    void listen(asked, { told, connected, lost }, signal);
  }

  /** Whether a window's time was over at a watermark. */
  private isOver(window: number, watermark: number): boolean {
    const [bucket] = buckets({ from: window, to: window + 1 }, stepOf(this.question, now()), this.question.zone);
    return bucket !== undefined && bucket.to <= watermark;
  }

  private async compare(): Promise<void> {
    if (!this.question.compare) return;
    const { question, listening } = this;
    const { from, to } = range(question, now());
    if (this.before && this.before.from === from && Date.now() - this.before.at < COMPARE) return;
    const at = Date.now();
    this.before = { rows: this.before?.rows ?? null, from, at };
    try {
      const asked = query(question, now(), false, { from: 2 * from - to, to: from });
      const rows = rowsOf(await get(`/v1/query?${asked}`, listening.signal));
      if (!listening.signal.aborted) this.before = { rows, from, at };
      this.draw();
    } catch (error) {
      if (listening.signal.aborted) return;
      this.before = null;
      this.refused(error as Error);
    }
  }

  /** Looks at the status, again and again while somebody sees it. */
  private async look(): Promise<void> {
    if (!document.hidden && !this.locked) {
      try {
        this.status = await get<Status>("/v1/status", AbortSignal.timeout(PATIENCE));
        this.lost = null;
        this.told(this.status);
      } catch (error) {
        if (error instanceof Locked) this.refused(error);
        else this.lost ??= { since: Date.now(), why: error instanceof TypeError ? "no connection" : (error as Error).message };
      }
      this.warn();
    }
    setTimeout(() => void this.look(), LOOK);
  }

  private told(status: Status): void {
    say(byId("topic"), status.topic);
    say(byId("generation"), `generation ${status.generation}`);
    say(byId("views"), `Views: ${status.views.map((view) => `${view.name} (${view.dimensions.join(", ")})`).join("; ")}.`);
    this.controls.know(
      status.dimensions,
      status.views.map((view) => view.dimensions),
    );
    showFreshness(byId("freshness"), status);
    showAccount(byId("account"), status);
    showStanding(byId("standing"), status);
    void this.compare();
    this.draw();
  }

  private warn(): void {
    const found: Trouble[] = [];
    if (this.lost) found.push(silent(this.lost.since, this.question.zone, this.lost.why));
    else if (this.status) found.push(...troubles(this.status));
    const stream = [...this.lostStreams.values()][0];
    if (stream && !this.lost) found.push({ grave: true, text: `The live stream has been cut off (${stream}); connecting again.` });
    for (const detail of new Set(this.streamTroubles.values())) found.push({ grave: true, text: `This answer stands still: ${detail}.` });
    showTroubles(byId("banner"), byId("spoken"), found);
    const state = this.state(found, stream !== undefined);
    byId("pulse").dataset["state"] = state;
    const words = { locked: "locked", lost: "not connected", troubled: "attention", live: "live", waiting: "connecting" };
    say(byId("pulse-text"), words[state]);
    byId("main").classList.toggle("stale", this.lost !== null);
  }

  private state(found: Trouble[], isCutOff: boolean): "locked" | "lost" | "troubled" | "live" | "waiting" {
    if (this.locked) return "locked";
    if (this.lost || isCutOff) return "lost";
    if (found.some((trouble) => trouble.grave) || byId("main").dataset["refused"] !== undefined) return "troubled";
    return this.total.isTold ? "live" : "waiting";
  }

  private refused(error: Error): void {
    if (error instanceof Locked) {
      this.locked = true;
      byId("main").dataset["locked"] = "";
      this.listening.abort();
      say(byId("door-why"), error.message);
      byId("door").hidden = false;
      byId("key").focus();
    } else if (error instanceof Refused) say(byId("refused"), `This cannot be asked: ${error.message}.`);
  }

  private open(event: Event): void {
    event.preventDefault();
    const key = byId<HTMLInputElement>("key");
    remember(key.value.trim());
    key.value = "";
    byId("door").hidden = true;
    this.locked = false;
    delete byId("main").dataset["locked"];
    this.listen();
    void this.letters.first();
  }

  /** Nobody hears what is pushed to a page that nobody sees, and a browser opens few connections. */
  private seen(): void {
    if (document.hidden) this.listening.abort();
    else this.listen();
  }

  /** Draws with the next picture, and not more often than is seen. */
  private draw(): void {
    if (this.drawing) return;
    this.drawing = true;
    // A picture takes a quarter of the time at most, on a slow machine too: the rest is for scrolling and typing.
    const pause = Math.max(PICTURE, 3 * this.took);
    const wait = Math.max(this.drawn + pause - performance.now(), 0);
    setTimeout(() => requestAnimationFrame(() => this.paint()), wait);
  }

  /** Draws, and sees how long that takes until the next frame, on which the browser has done its part. */
  private paint(): void {
    const began = performance.now();
    this.picture();
    requestAnimationFrame(() => (this.took = performance.now() - began));
  }

  private picture(): void {
    this.drawing = false;
    this.drawn = performance.now();
    const { question, total, groups, status } = this;
    if (!total.isTold || (groups && !groups.isTold)) return;
    const watermark = Math.max(total.watermark ?? 0, status?.watermark ? Date.parse(status.watermark) : 0) || null;
    const lateness = status?.lateness_ms ?? 0;
    const told = { total, groups, before: question.compare ? (this.before?.rows ?? null) : null, watermark, lateness, now: now() };
    const shown = board(question, told, this.colours);
    delete byId("main").dataset["asking"];
    this.chart.show(shown);
    showHeadline(shown, status, total.cut, now());
    this.top.show(shown);
    this.keep.show(shown, total, now());
    showRevisions(byId("revisions"), shown, total.revisions, watermark, lateness);
    this.tables(shown);
    this.warn();
  }

  /** What is long is drawn only where it is seen, and seldom. */
  private tables(shown: Board): void {
    const first = shown.series[0]?.group ?? [];
    const dimension = byId<HTMLSelectElement>("dimension").value;
    const at = shown.question.groupBy.indexOf(dimension);
    this.controls.suggest(first.length && at >= 0 ? [...new Set(shown.series.map((one) => one.group[at] ?? "").filter(Boolean))] : []);
    const table = byId<HTMLDetailsElement>("table");
    if (!table.open || performance.now() - this.tabled < 2_000) return;
    this.tabled = performance.now();
    showWindows(table.querySelector<HTMLElement>(".scroll")!, shown, this.total.revisions);
  }
}

/** What is on the page is painted first. */
function begin(): void {
  new Dashboard().start();
}
if (document.hidden) begin();
else requestAnimationFrame(() => setTimeout(begin));
