// What the page asks: it is all in its address, so that a link shows the same, and Back goes back.

import { isZone, last, span, stepFor, type Range } from "./time.ts";

export const MEASURES = { count: "Events", sum: "Amounts, sum", avg: "Amounts, mean", min: "Smallest amount", max: "Largest amount" };
export type Measure = keyof typeof MEASURES;
export const STEPS = ["5m", "15m", "1h", "1d", "1w"];
export const TOPS = [5, 8, 12, 20];

/** Which columns are asked for, so that a total can be told exactly. */
const COLUMNS: Record<Measure, string> = {
  count: "count",
  sum: "count,sum",
  avg: "count,amount_count,sum",
  min: "count,min",
  max: "count,max",
};

export type Filter = { dimension: string; value: string };

export type Question = {
  /** A range that moves, such as `3h`; or two instants. */
  last: string | null;
  from: number;
  to: number;
  /** `null`: chosen by the range. */
  step: string | null;
  groupBy: string[];
  filters: Filter[];
  measure: Measure;
  top: number;
  zone: string;
  compare: boolean;
};

export const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

export function read(address: string): Question {
  const given = new URLSearchParams(address);
  const instant = (name: string) => {
    const text = given.get(name) ?? "";
    return /^\d+$/.test(text) ? Number(text) : Date.parse(text);
  };
  const [from, to, wanted] = [instant("from"), instant("to"), given.get("last") ?? ""];
  const fixed = Number.isFinite(from) && Number.isFinite(to) && from < to;
  const filters = given.getAll("where").map((text) => {
    const at = text.indexOf(":");
    return { dimension: text.slice(0, Math.max(at, 0)), value: text.slice(at + 1) };
  });
  const [measure, step, top, zone] = [
    given.get("measure") ?? "",
    given.get("step") ?? "",
    Number(given.get("top")),
    given.get("tz") ?? HERE,
  ];
  return {
    last: fixed ? null : span(wanted) ? wanted : "3h",
    from: fixed ? from : 0,
    to: fixed ? to : 0,
    step: STEPS.includes(step) ? step : null,
    groupBy: given.has("group_by") ? given.get("group_by")!.split(",").filter(Boolean) : ["event_type"],
    filters: filters.filter((filter) => filter.dimension),
    measure: measure in MEASURES ? (measure as Measure) : "count",
    top: Number.isInteger(top) && top >= 1 && top <= 20 ? top : 8,
    zone: isZone(zone) ? zone : "UTC",
    compare: given.get("compare") === "1",
  };
}

/** The address of a question. The zone is always in it: a link must show the same days elsewhere. */
export function write(question: Question): string {
  const { last, from, to, step, groupBy, measure, top, zone, compare } = question;
  const address = new URLSearchParams(last ? { last } : { from: new Date(from).toISOString(), to: new Date(to).toISOString() });
  if (step) address.set("step", step);
  address.set("group_by", groupBy.join(","));
  for (const { dimension, value } of question.filters) address.append("where", `${dimension}:${value}`);
  if (measure !== "count") address.set("measure", measure);
  if (top !== 8) address.set("top", String(top));
  address.set("tz", zone);
  if (compare) address.set("compare", "1");
  // Commas and colons are plain in a query.
  return `?${address.toString().replaceAll("%2C", ",").replaceAll("%3A", ":")}`;
}

export function range(question: Question, now: number): Range {
  const ms = question.last && span(question.last);
  return ms ? last(ms, now) : { from: question.from, to: question.to };
}

export function stepOf(question: Question, now: number): string {
  return question.step ?? stepFor(range(question, now));
}

/** Measures that add up, and so can be stacked. */
export function isStacked(measure: Measure): boolean {
  return measure === "count" || measure === "sum";
}

/** The query of it, grouped or not, in another range where one is given. */
export function query(question: Question, now: number, grouped: boolean, other?: Range): string {
  const asked = new URLSearchParams();
  const fixed = other ?? (question.last ? null : { from: question.from, to: question.to });
  if (fixed) {
    asked.set("from", String(fixed.from));
    asked.set("to", String(fixed.to));
  } else asked.set("last", question.last!);
  asked.set("step", stepOf(question, now));
  asked.set("tz", question.zone);
  for (const { dimension, value } of question.filters) asked.append("where", `${dimension}:${value}`);
  asked.set("measures", COLUMNS[question.measure]);
  if (grouped) {
    asked.set("group_by", question.groupBy.join(","));
    asked.set("top", `${question.top}:${question.measure}`);
  }
  return asked.toString();
}
