// What a chart draws, without a canvas.

import type { Board, Phase } from "./board.ts";
import { isStacked } from "./question.ts";
import type { Range } from "./time.ts";

export type Column = (number | null)[];
export type Stack = { low: Column; high: Column };

/** Where each bar begins and ends: on those below it, or, below zero, under those above. */
export function stacked({ series, buckets, question }: Board): Stack[] {
  if (!isStacked(question.measure)) return series.map(({ values }) => ({ low: values, high: values }));
  const [up, down] = [new Float64Array(buckets.length), new Float64Array(buckets.length)];
  return series.map(({ values }) => {
    const stack: Stack = { low: [], high: [] };
    values.forEach((value, at) => {
      const base = (value ?? 0) < 0 ? down : up;
      stack.low.push(value === null ? null : base[at]!);
      base[at]! += value ?? 0;
      stack.high.push(value === null ? null : base[at]!);
    });
    return stack;
  });
}

/** What the axis must reach, with some room. */
export function extent(fromZero: boolean, columns: Column[]): [number, number] {
  let [least, most] = fromZero ? [0, 0] : [Infinity, -Infinity];
  for (const column of columns) {
    for (const value of column) {
      if (value === null) continue;
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
  }
  if (!(least <= most)) return [0, 1];
  const room = (most - least) * 0.06 || 1;
  return [fromZero && least === 0 ? 0 : least - room, most + room];
}

/** Windows of one phase that follow each other. */
export function runs({ buckets, phases }: Board): (Range & { phase: Phase })[] {
  const found: (Range & { phase: Phase })[] = [];
  buckets.forEach(({ from, to }, at) => {
    const before = found.at(-1);
    if (before && before.phase === phases[at]) before.to = to;
    else found.push({ from, to, phase: phases[at]! });
  });
  return found;
}
