// An answer that is kept up to date by what is pushed: its rows by window and group, and what of it came late.

import * as decimal from "./decimal.ts";
import type { Measure } from "./question.ts";
import type { Told } from "./live.ts";

/** What one window and group hold; amounts in ten-thousandths. */
export type Row = {
  window: number;
  group: string[];
  count: number;
  amounts: number;
  sum: bigint;
  min: bigint | null;
  max: bigint | null;
  final: boolean;
};

type Raw = Record<string, string | number | boolean | null> & { window: string; count: number; final?: boolean };
type Pushed = { rows: Raw[]; gone: Raw[]; cut: Record<string, number>; watermark: string | null; generation: number };

/** A window that late events have changed while the page was open. */
export type Revision = { window: number; from: number; to: number; at: number; final: boolean };

/** So many revisions are kept. */
const MOST_REVISIONS = 200;

export class Held {
  readonly rows = new Map<string, Row>();
  /** By window, newest last. */
  readonly revisions = new Map<number, Revision>();
  watermark: number | null = null;
  cut: Record<string, number> = {};
  generation = 0;
  /** Whether there has been an answer. */
  isTold = false;

  constructor(private readonly groupBy: string[]) {}

  /** Takes an event; `isOver` says whether a window's time had been over by the watermark before. */
  hear({ kind, data }: Told, now: number, isOver: (window: number, watermark: number) => boolean): boolean {
    if (kind !== "snapshot" && kind !== "change") return false;
    const { rows, gone, cut, watermark, generation } = data as Pushed;
    const before = this.watermark;
    const old = kind === "snapshot" ? new Map(this.rows) : this.rows;
    // By other rules, other counts are nobody's late events.
    const comparable = this.isTold && generation === this.generation;
    if (kind === "snapshot") this.rows.clear();
    for (const raw of gone) this.rows.delete(this.key(raw));
    for (const raw of rows) {
      const row = this.row(raw);
      const key = this.key(raw);
      const counted = old.get(key)?.count ?? 0;
      if (comparable && before !== null && row.count > counted && isOver(row.window, before)) this.revise(row, counted, now);
      this.rows.set(key, row);
    }
    this.cut = cut;
    this.generation = generation;
    this.watermark = watermark === null ? before : Date.parse(watermark);
    this.isTold = true;
    return true;
  }

  private revise(row: Row, counted: number, at: number): void {
    const known = this.revisions.get(row.window);
    this.revisions.delete(row.window);
    this.revisions.set(row.window, { window: row.window, from: known?.from ?? counted, to: row.count, at, final: row.final });
    const oldest = this.revisions.keys().next();
    if (this.revisions.size > MOST_REVISIONS && !oldest.done) this.revisions.delete(oldest.value);
  }

  private group(raw: Raw): string[] {
    return this.groupBy.map((dimension) => String(raw[dimension] ?? ""));
  }

  private key(raw: Raw): string {
    return JSON.stringify([raw.window, ...this.group(raw)]);
  }

  private row(raw: Raw): Row {
    const amount = (name: string) => (typeof raw[name] === "string" ? decimal.parse(raw[name]) : null);
    return {
      window: Date.parse(raw.window),
      group: this.group(raw),
      count: raw.count,
      amounts: Number(raw["amount_count"] ?? 0),
      sum: amount("sum") ?? 0n,
      min: amount("min"),
      max: amount("max"),
      final: raw.final === true,
    };
  }
}

/** Adds up rows, as cells merge. */
export class Sum {
  count = 0;
  private amounts = 0;
  private sum = 0n;
  private min: bigint | null = null;
  private max: bigint | null = null;

  add(row: Row): this {
    this.count += row.count;
    this.amounts += row.amounts;
    this.sum += row.sum;
    if (row.min !== null && (this.min === null || row.min < this.min)) this.min = row.min;
    if (row.max !== null && (this.max === null || row.max > this.max)) this.max = row.max;
    return this;
  }

  join(other: Sum): this {
    return this.add({
      window: 0,
      group: [],
      final: false,
      count: other.count,
      amounts: other.amounts,
      sum: other.sum,
      min: other.min,
      max: other.max,
    });
  }

  private amount(measure: Measure): bigint | null {
    if (measure === "sum") return this.sum;
    if (measure === "avg") return this.amounts ? decimal.mean(this.sum, BigInt(this.amounts)) : null;
    return measure === "min" ? this.min : this.max;
  }

  /** To be drawn. */
  number(measure: Measure): number | null {
    if (measure === "count") return this.count;
    const amount = this.amount(measure);
    return amount === null ? null : decimal.approximate(amount);
  }

  /** To be read. */
  text(measure: Measure): string {
    if (measure === "count") return this.count.toLocaleString("en-US");
    const amount = this.amount(measure);
    return amount === null ? "–" : decimal.show(amount);
  }
}

export function rowsOf(answer: { rows: Raw[] }, groupBy: string[] = []): Row[] {
  const held = new Held(groupBy);
  held.hear({ kind: "snapshot", data: { ...answer, gone: [], cut: {}, watermark: null, generation: 0 } }, 0, () => false);
  return [...held.rows.values()];
}
