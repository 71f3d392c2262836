// The number, how it grew, and what it is exact at.

import type { Board } from "./board.ts";
import { byId, redraw, say, svg } from "./dom.ts";
import { Sum } from "./held.ts";
import { MEASURES } from "./question.ts";
import { behind, seconds, type Status } from "./status.ts";
import { clockSeconds, dayAndClock, spanName } from "./time.ts";

/** Partitions whose positions are named. */
const NAMED = 4;

export function showHeadline(board: Board, status: Status | null, cut: Record<string, number>, now: number): void {
  const { question, range, total } = board;
  const zone = question.zone;
  const span = question.last ? `last ${spanName(question.last)}` : `${dayAndClock(range.from, zone)} to ${dayAndClock(range.to, zone)}`;
  const filtered = question.filters.length ? ", filtered" : "";
  say(byId("headline-name"), `${MEASURES[question.measure]}, ${span}${filtered}`);
  say(byId("big"), total.text(question.measure));
  document.title = `${total.text(question.measure)} · Tidemark`;
  change(board, now);
  const lag = status && behind(status.partitions);
  const fresh = lag === null ? "" : lag === 0 ? "nothing is waiting to be counted" : `${seconds(lag)} behind the log`;
  const event = status?.watermark ? `event time ${clockSeconds(Date.parse(status.watermark), zone)}` : "";
  say(byId("as-of"), [`Exact at the cut ${cutName(cut)}`, fresh, event].filter(Boolean).join(" · "));
  spark(board);
}

function cutName(cut: Record<string, number>): string {
  const all = Object.entries(cut).map(([partition, next]) => `${partition}:${next}`);
  return all.length > NAMED ? `${all.slice(0, NAMED).join(" ")} …` : all.join(" ");
}

/** What is over of the period, beside as much of the one before. */
function change({ before, totals, buckets, question, range }: Board, now: number): void {
  const place = byId("change");
  if (!before) return say(place, "");
  const [current, former] = [new Sum(), new Sum()];
  let over = 0;
  buckets.forEach((bucket, at) => {
    if (Math.min(bucket.to, range.to) > now) return;
    over += 1;
    current.join(totals[at]!);
    former.join(before[at]!);
  });
  const [a, b] = [current.number(question.measure), former.number(question.measure)];
  if (!over || a === null || b === null || b === 0) return say(place, "Nothing in the period before to compare with.");
  const share = (100 * (a - b)) / Math.abs(b);
  place.dataset["way"] = share > 0 ? "up" : share < 0 ? "down" : "same";
  const sign = share > 0 ? "▲ +" : share < 0 ? "▼ −" : "";
  say(
    place,
    `${sign}${Math.abs(share).toLocaleString("en-US", { maximumFractionDigits: 1 })} % against the period before (${former.text(question.measure)} by then)`,
  );
}

/** The totals as a line, without the windows that have only begun. */
function spark({ totals, phases, question }: Board): void {
  const values = totals.map((total) => total.number(question.measure) ?? 0);
  const whole =
    phases.lastIndexOf("final") > 1 ? values.slice(0, phases.findIndex((phase) => phase === "live") + 1 || values.length) : values;
  const [least, most] = [Math.min(0, ...whole), Math.max(...whole, 1)];
  const point = (value: number, at: number) => [
    (100 * at) / Math.max(whole.length - 1, 1),
    30 - (28 * (value - least)) / (most - least || 1),
  ];
  const line = whole
    .map((value, at) =>
      point(value, at)
        .map((part) => part.toFixed(2))
        .join(" "),
    )
    .join("L");
  redraw(byId("spark"), line, () => [
    svg(
      "svg",
      { viewBox: "0 0 100 31", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { d: `M0 31L${line}L100 31Z`, class: "area" }),
      svg("path", { d: `M${line}`, class: "line" }),
    ),
  ]);
}
