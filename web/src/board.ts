// What there is to show, put together from what is held: one picture for the chart, the tables and the number above them.

import { Sum, type Held, type Row } from "./held.ts";
import { isStacked, stepOf, range, type Question } from "./question.ts";
import { buckets, type Range } from "./time.ts";

/** Where a window stands: events of its time come in, late ones are expected, or none are. */
export type Phase = "live" | "closing" | "final";

export type Series = { name: string; group: string[]; values: (number | null)[]; sum: Sum; colour: number };

export type Board = {
  question: Question;
  step: string;
  range: Range;
  buckets: Range[];
  phases: Phase[];
  /** Largest first; of what does not add up to the total, an `others` at the end. */
  series: Series[];
  totals: Sum[];
  total: Sum;
  /** The period before, bucket by bucket, if it is wanted and known. */
  before: Sum[] | null;
};

/** An empty value is one too. */
export function nameOf(group: string[]): string {
  return group.map((value) => value || "(none)").join(" · ");
}

/** The colour of all that has none of its own. */
export const OTHERS = -1;

export function phase(end: number, watermark: number | null, lateness: number): Phase {
  if (watermark === null || end > watermark) return "live";
  return end + lateness > watermark ? "closing" : "final";
}

type Told = { total: Held; groups: Held | null; before: Row[] | null; watermark: number | null; lateness: number; now: number };

export function board(question: Question, { total, groups, before, watermark, lateness, now }: Told, colours: Colours): Board {
  const span = range(question, now);
  const step = stepOf(question, now);
  const all = buckets(span, step, question.zone);
  const place = new Map(all.map((bucket, n) => [bucket.from, n]));
  const into = (sums: (Sum | undefined)[], rows: Iterable<Row>) => {
    for (const row of rows) {
      const n = place.get(row.window);
      if (n !== undefined) (sums[n] ??= new Sum()).add(row);
    }
    return Array.from({ length: all.length }, (_, n) => sums[n] ?? new Sum());
  };
  const totals = into([], total.rows.values());
  const finals = new Set([...total.rows.values()].filter((row) => row.final).map((row) => row.window));
  const phases = all.map(({ from, to }) => (finals.has(from) ? "final" : phase(Math.min(to, span.to), watermark, lateness)));
  const sum = new Sum();
  for (const row of total.rows.values()) if (place.has(row.window)) sum.add(row);
  const series = groups ? grouped(question, groups, totals, place) : [alone(question, totals, sum)];
  colours.give(series);
  return {
    question,
    step,
    range: span,
    buckets: all,
    phases,
    series,
    totals,
    total: sum,
    before: before && into([], moved(before, all, span)),
  };
}

/** Each row in the bucket that it is compared with: the range's length later, and up to half a bucket off, for not all days
 * are as long. */
function moved(rows: Row[], all: Range[], { from, to }: Range): Row[] {
  return rows.map((row) => {
    const later = row.window + to - from;
    const bucket = all.findLast((bucket) => bucket.from - (bucket.to - bucket.from) / 2 <= later) ?? all[0];
    return { ...row, window: bucket?.from ?? later };
  });
}

function alone(question: Question, totals: Sum[], sum: Sum): Series {
  return { name: "All events", group: [], values: totals.map((total) => value(total, question)), sum, colour: 0 };
}

function value(sum: Sum, { measure }: Question): number | null {
  return sum.count ? sum.number(measure) : null;
}

function grouped(question: Question, groups: Held, totals: Sum[], place: Map<number, number>): Series[] {
  const found = new Map<string, { group: string[]; sums: (Sum | undefined)[]; sum: Sum }>();
  for (const row of groups.rows.values()) {
    const n = place.get(row.window);
    if (n === undefined) continue;
    const key = JSON.stringify(row.group);
    let one = found.get(key);
    if (!one) found.set(key, (one = { group: row.group, sums: new Array<Sum | undefined>(totals.length), sum: new Sum() }));
    (one.sums[n] ??= new Sum()).add(row);
    one.sum.add(row);
  }
  const rank = ({ sum }: { sum: Sum }) => sum.number(question.measure) ?? -Infinity;
  const ranked = [...found.values()].sort((a, b) => rank(b) - rank(a) || (nameOf(a.group) < nameOf(b.group) ? -1 : 1));
  const series = ranked.map(({ group, sums, sum }) => ({
    name: nameOf(group),
    group,
    sum,
    colour: 0,
    values: Array.from(sums, (one) => (one ? value(one, question) : null)),
  }));
  if (!isStacked(question.measure)) return series;
  // Both streams come to each new cut by themselves; for a moment a part may be ahead of the whole.
  const rest = totals.map((total, n) => {
    const shown = series.reduce((all, one) => all + (one.values[n] ?? 0), 0);
    const left = (value(total, question) ?? 0) - shown;
    return Math.abs(left) > Math.abs(shown) * 1e-9 ? left : 0;
  });
  if (rest.some((left) => left > 0)) {
    series.push({ name: "All others", group: [], values: rest.map((left) => (left > 0 ? left : null)), sum: new Sum(), colour: OTHERS });
  }
  return series;
}

/** Colours stay with a group while it is shown, whatever its rank. */
export class Colours {
  private readonly of = new Map<string, number>();

  give(series: Series[]): void {
    const shown = new Set(series.map((one) => one.name));
    for (const name of this.of.keys()) if (!shown.has(name)) this.of.delete(name);
    for (const one of series) {
      if (one.colour === OTHERS) continue;
      let colour = this.of.get(one.name);
      if (colour === undefined) {
        const taken = new Set(this.of.values());
        for (colour = 0; taken.has(colour);) colour += 1;
        this.of.set(one.name, colour);
      }
      one.colour = colour;
    }
  }
}
