// The time series: a bar a window, stacked by group (or lines, where a measure does not add up), and what stands firm of it.

import uPlot from "uplot";
import { MEASURES, isStacked } from "./question.ts";
import type { Board, Phase } from "./board.ts";
import { byId, h, say } from "./dom.ts";
import { palette, type Palette } from "./palette.ts";
import { extent, runs, stacked, type Stack } from "./stack.ts";
import { DAY, bucketName, clock, day, type Range } from "./time.ts";

/** Series that are named for a window, at most. */
const NAMED = 8;

/** A range that is drawn with the mouse must be so wide, in pixels. */
const DRAWN = 8;

export class Chart {
  private plot: uPlot | null = null;
  private shape = "";
  private board: Board | null = null;
  private stacks: Stack[] = [];
  private extent: [number, number] = [0, 1];
  private colours: Palette = palette();
  private readonly note = h("div", { class: "note", hidden: true });
  private readonly spoken = h("p", { class: "unseen", "aria-live": "polite" });
  private readonly canvas = h("div", { class: "canvas" });
  private at: number | null = null;

  constructor(
    private readonly place: HTMLElement,
    private readonly chosen: (range: Range) => void,
  ) {
    place.append(this.canvas, this.note, this.spoken);
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
    place.addEventListener("keydown", (event) => this.key(event));
    place.addEventListener("blur", () => this.point(null));
  }

  show(board: Board): void {
    this.board = board;
    this.stacks = stacked(board);
    const before = board.before?.map((sum) => (sum.count ? sum.number(board.question.measure) : null)) ?? null;
    const columns = [...this.stacks.map((stack) => stack.high), ...(before ? [before, before] : [])];
    this.extent = extent(isStacked(board.question.measure), [...columns, ...this.stacks.map((stack) => stack.low)]);
    const data = [board.buckets.map((bucket) => bucket.from / 1000), ...columns] as uPlot.AlignedData;
    const shape = [this.stacks.length, Boolean(before), isStacked(board.question.measure)].join();
    if (shape !== this.shape) {
      this.shape = shape;
      this.plot?.destroy();
      this.plot = new uPlot(this.options(this.stacks.length, Boolean(before)), data, this.canvas);
    } else this.plot!.setData(data);
    const { from, to } = board.range;
    byId("before-key").hidden = !before;
    say(this.place.querySelector(".empty")!, board.total.count ? "" : "No events in this range.");
    const name = `${MEASURES[board.question.measure]} by window, ${bucketName({ from, to }, "5m", board.question.zone)}. Arrow keys go from window to window; the table below has all figures.`;
    if (this.place.getAttribute("aria-label") !== name) this.place.setAttribute("aria-label", name);
    if (this.at !== null) this.describe();
  }

  /** Light has become dark, or the other way. */
  recolour(): void {
    this.colours = palette();
    this.plot?.redraw(false, true);
  }

  private size(): { width: number; height: number } {
    return { width: Math.max(this.place.clientWidth, 100), height: Math.max(this.place.clientHeight, 120) };
  }

  private options(series: number, before: boolean): uPlot.Options {
    const stackable = isStacked(this.board!.question.measure);
    const one = (n: number): uPlot.Series => {
      const colour = () => this.colours.of(this.board!.series[n]?.colour ?? 0);
      const line = { stroke: colour, width: 2, paths: this.steps(), points: { show: false } };
      return stackable ? { paths: () => null, points: { show: false } } : line;
    };
    // On a ground of its own, so that it is seen on every colour.
    const compared = { width: 1.5, paths: this.steps(), points: { show: false } };
    const former: uPlot.Series[] = [
      { ...compared, stroke: () => this.colours.card, width: 4 },
      { ...compared, stroke: () => this.colours.ink, dash: [5, 4] },
    ];
    const em = letter();
    const axis = {
      stroke: () => this.colours.dim,
      font: `${em}px system-ui, sans-serif`,
      grid: { stroke: () => this.colours.line, width: 1 },
      ticks: { show: false },
    };
    return {
      ...this.size(),
      padding: [2 * em, 2 * em, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), this.board!.question.zone),
      scales: {
        x: { time: true, range: () => [this.board!.range.from / 1000, this.board!.range.to / 1000] },
        y: { range: () => this.extent },
      },
      axes: [
        {
          ...axis,
          size: 3.4 * em,
          space: 6 * em,
          gap: 6,
          values: (_, splits, __, ___, step) => this.times(splits, step),
          grid: { show: false },
        },
        {
          ...axis,
          space: 3.5 * em,
          size: (_, values) => em * (1.2 + 0.62 * Math.max(3, ...(values ?? []).map((value) => value.length))),
          values: (_, splits) => splits.map(compact),
        },
      ],
      series: [{}, ...Array.from({ length: series }, (_, n) => one(n)), ...(before ? former : [])],
      hooks: {
        drawClear: [(plot) => this.phases(plot, false)],
        drawSeries: [(plot, n) => stackable && n <= series && this.inside(plot, () => this.bars(plot, n - 1))],
        draw: [(plot) => this.phases(plot, true)],
        setCursor: [(plot) => this.point(plot.cursor.idx ?? null)],
        setSelect: [(plot) => this.select(plot)],
      },
    };
  }

  /** A series' bars, each from where its window begins to where it ends, on top of those below. Rectangles on whole pixels are
   * many times as fast as a path of them. */
  private bars({ ctx, valToPos }: uPlot, n: number): void {
    const { low, high } = this.stacks[n]!;
    const place = (value: number, scale: string) => Math.round(valToPos(value, scale, true));
    ctx.fillStyle = this.colours.of(this.board!.series[n]?.colour ?? 0);
    this.board!.buckets.forEach((bucket, at) => {
      const [from, to] = [low[at], high[at]];
      if (from === null || from === undefined || to === null || to === undefined || from === to) return;
      const [left, right, top, bottom] = [place(bucket.from / 1000, "x"), place(bucket.to / 1000, "x"), place(to, "y"), place(from, "y")];
      const gap = right - left > 4 ? 1 : 0;
      // What is there is seen, however little it is.
      ctx.fillRect(left, Math.min(top, bottom), Math.max(right - left - gap, 1), Math.max(Math.abs(bottom - top), 1));
    });
  }

  /** Draws nothing beyond the axes: the first and the last window may be cut. */
  private inside({ ctx, bbox }: uPlot, draw: () => void): void {
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  /** A line that keeps a window's value from where it begins to where it ends. */
  private steps(): uPlot.Series.PathBuilder {
    return (plot, series, first, last) => {
      const path = new Path2D();
      let goesOn = false;
      for (let at = first; at <= last; at += 1) {
        const [value, bucket] = [plot.data[series]?.[at], this.board!.buckets[at]!];
        if (value !== null && value !== undefined) {
          const [left, right] = [bucket.from, bucket.to].map((ms) => Math.round(plot.valToPos(ms / 1000, "x", true)));
          const y = Math.round(plot.valToPos(value, "y", true));
          if (goesOn) path.lineTo(left!, y);
          else path.moveTo(left!, y);
          path.lineTo(right!, y);
        }
        goesOn = value !== null && value !== undefined;
      }
      return { stroke: path, fill: null, clip: null, band: null, gaps: [], flags: 0 };
    };
  }

  /** Windows that are not final: their ground, or, above the bars, the veil and their names. */
  private phases(plot: uPlot, above: boolean): void {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    for (const run of runs(this.board!)) {
      if (run.phase === "final") continue;
      const edge = (ms: number) => Math.min(Math.max(plot.valToPos(ms / 1000, "x", true), bbox.left), bbox.left + bbox.width);
      const [left, right] = [edge(run.from), edge(run.to)];
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, bbox.top, right - left, bbox.height);
      ctx.clip();
      if (!above) {
        ctx.globalAlpha = run.phase === "live" ? 0.14 : 0.07;
        ctx.fillStyle = this.colours.accent;
        ctx.fillRect(left, bbox.top, right - left, bbox.height);
      } else {
        ctx.globalAlpha = run.phase === "live" ? 0.4 : 0.55;
        ctx.strokeStyle = ctx.fillStyle = this.colours.card;
        if (run.phase === "live") ctx.fillRect(left, bbox.top, right - left, bbox.height);
        else hatch(ctx, left, right, bbox, ratio);
      }
      ctx.restore();
      if (above) this.mark(plot, left, right, run.phase);
    }
  }

  /** A phase's name above its windows, and the line where it begins. */
  private mark({ ctx, bbox }: uPlot, left: number, right: number, phase: Phase): void {
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.setLineDash([]);
    ctx.strokeStyle = this.colours.accent;
    ctx.lineWidth = ratio;
    ctx.beginPath();
    ctx.moveTo(left, bbox.top - 4 * ratio);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${letter() * ratio}px system-ui, sans-serif`;
    ctx.fillStyle = this.colours.accent;
    const width = ctx.measureText(phase).width;
    // What is closing is narrow for the most part, and what is live is always last: names stand away from each other.
    ctx.textAlign = phase === "closing" && width + 6 * ratio > right - left ? "right" : "left";
    ctx.fillText(phase, left + (ctx.textAlign === "right" ? -4 : 4) * ratio, bbox.top - 8 * ratio);
    ctx.restore();
  }

  private times(splits: number[], step: number): string[] {
    const { zone } = this.board!.question;
    let before = "";
    return splits.map((split) => {
      const name = day(split * 1000, zone);
      const isNew = name !== before;
      before = name;
      if (step * 1000 >= DAY) return name;
      const time = clock(split * 1000, zone);
      return isNew ? `${time}\n${name}` : time;
    });
  }

  private select(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < DRAWN) return;
    const inside = this.board!.buckets.filter(({ from, to }) => {
      const middle = plot.valToPos((from + to) / 2000, "x");
      return middle >= left && middle <= left + width;
    });
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const { range } = this.board!;
    if (inside.length) this.chosen({ from: Math.max(inside[0]!.from, range.from), to: Math.min(inside.at(-1)!.to, range.to) });
  }

  private key(event: KeyboardEvent): void {
    const last = (this.board?.buckets.length ?? 0) - 1;
    const moves: Record<string, (at: number) => number | null> = {
      ArrowLeft: (at) => Math.max(at - 1, 0),
      ArrowRight: (at) => Math.min(at + 1, last),
      Home: () => 0,
      End: () => last,
      Escape: () => null,
    };
    const move = moves[event.key];
    if (!move || last < 0) return;
    event.preventDefault();
    this.point(move(this.at ?? last));
    if (this.at !== null) say(this.spoken, this.words());
  }

  /** Names a window's figures beside it. */
  private point(at: number | null): void {
    this.at = at !== null && this.board?.buckets[at] ? at : null;
    this.note.hidden = this.at === null;
    if (this.at !== null) this.describe();
  }

  private words(): string {
    const { board, at } = this;
    const figures = this.figures().map(({ name, text }) => `${name} ${text}`);
    return `${bucketName(board!.buckets[at!]!, board!.step, board!.question.zone)}, ${board!.phases[at!]}: total ${board!.totals[at!]!.text(board!.question.measure)}; ${figures.join("; ")}`;
  }

  private figures(): { name: string; text: string; colour: string }[] {
    const { series, question } = this.board!;
    const shown = series.filter((one) => one.values[this.at!] != null).slice(0, NAMED);
    const text = (value: number) => value.toLocaleString("en-US", { maximumFractionDigits: question.measure === "count" ? 0 : 2 });
    return shown.map((one) => ({ name: one.name, text: text(one.values[this.at!]!), colour: this.colours.of(one.colour) }));
  }

  private describe(): void {
    const board = this.board!;
    const at = Math.min(this.at!, board.buckets.length - 1);
    const { measure, zone } = board.question;
    const line = (name: string, text: string, colour?: string) => {
      const swatch = h("i", { class: "swatch" });
      if (colour) swatch.style.background = colour;
      return h("div", {}, colour ? swatch : null, h("span", {}, name), h("b", {}, text));
    };
    this.note.replaceChildren(
      h("p", {}, bucketName(board.buckets[at]!, board.step, zone), h("em", {}, board.phases[at]!)),
      ...this.figures().map(({ name, text, colour }) => line(name, text, colour)),
      line("Total", board.totals[at]!.text(measure)),
      ...(board.before ? [line("Period before", board.before[at]!.count ? board.before[at]!.text(measure) : "–")] : []),
    );
    const bucket = board.buckets[at]!;
    const x = this.plot!.valToPos((bucket.from + bucket.to) / 2000, "x") + this.plot!.bbox.left / devicePixelRatio;
    const room = this.place.clientWidth;
    this.note.style.left = `${x < room / 2 ? x + 14 : Math.max(x - 14 - this.note.offsetWidth, 0)}px`;
  }
}

function hatch(ctx: CanvasRenderingContext2D, left: number, right: number, { top, height }: uPlot.BBox, ratio: number): void {
  ctx.setLineDash([]);
  ctx.lineWidth = 2 * ratio;
  ctx.beginPath();
  for (let x = left - height; x < right; x += 6 * ratio) {
    ctx.moveTo(x, top + height);
    ctx.lineTo(x + height, top);
  }
  ctx.stroke();
}

/** The height of letters on the canvas, in pixels: as the page has it. */
function letter(): number {
  return Math.round(0.75 * parseFloat(getComputedStyle(document.documentElement).fontSize));
}

const small = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 2 });
function compact(value: number): string {
  return small.format(value);
}
