// Tables beside the chart: the largest groups, every window, and what late events have revised.

import { OTHERS, phase, type Board, type Series } from "./board.ts";
import { h, redraw, say } from "./dom.ts";
import type { Revision } from "./held.ts";
import { palette, type Palette } from "./palette.ts";
import { MEASURES, isStacked, type Filter, type Measure } from "./question.ts";
import { bucketName, clockSeconds } from "./time.ts";

/** Rows of a table of windows: beyond them a chart, or CSV, is of more use. */
const MOST_WINDOWS = 500;

let colours: Palette | null = null;
export function recolour(): void {
  colours = null;
}

const head = (...names: (string | null)[]) =>
  h("thead", {}, h("tr", {}, ...names.map((name) => name !== null && h("th", { scope: "col" }, name))));

type Line = { row: HTMLElement; swatch: HTMLElement; bar: HTMLElement; value: HTMLElement; events: HTMLElement; share: HTMLElement };

/** The groups that are shown; a click on one filters by it. Rows stay what they are while figures change, so that neither a
 * click nor the focus is lost. */
export class Top {
  private lines = new Map<string, Line>();
  private kind = "";
  private readonly body = h("tbody");
  private readonly none = h("p", { class: "dim" }, "Nothing in this range.");

  constructor(
    private readonly place: HTMLElement,
    private readonly filter: (by: Filter[]) => void,
  ) {}

  show({ series, question, total }: Board): void {
    const { measure, groupBy } = question;
    const kind = [measure, ...groupBy].join();
    if (kind !== this.kind) {
      this.kind = kind;
      this.lines.clear();
      this.body.replaceChildren();
      const names = head(
        groupBy.join(", ") || "Group",
        MEASURES[measure],
        measure !== "count" ? "Events" : null,
        isStacked(measure) ? "Share" : null,
      );
      this.place.replaceChildren(h("table", { class: "top" }, names, this.body), this.none);
    }
    const groups = series.filter((one) => one.colour !== OTHERS);
    const most = Math.max(...groups.map((one) => Math.abs(one.sum.number(measure) ?? 0)), Number.MIN_VALUE);
    const lines = new Map(groups.map((one) => [one.name, this.lines.get(one.name) ?? this.line(one, question.measure, groupBy)]));
    this.lines = lines;
    for (const one of groups) this.fill(lines.get(one.name)!, one, measure, most, total.number(measure) ?? 0);
    const rows = [...lines.values()].map((line) => line.row);
    if (rows.length !== this.body.children.length || rows.some((row, n) => this.body.children[n] !== row))
      this.body.replaceChildren(...rows);
    this.none.hidden = groups.length > 0;
  }

  private line(one: Series, measure: Measure, groupBy: string[]): Line {
    const by = groupBy.map((dimension, n) => ({ dimension, value: one.group[n] ?? "" }));
    const name = one.group.length
      ? h("button", { type: "button", class: "link", title: "Filter by it", click: () => this.filter(by) }, one.name)
      : h("span", {}, one.name);
    const [swatch, bar, value, events, share] = [
      h("i", { class: "swatch" }),
      h("i", { class: "bar" }),
      h("td"),
      h("td"),
      h("td", { class: "dim" }),
    ];
    const row = h(
      "tr",
      {},
      h("th", { scope: "row" }, h("span", { class: "name" }, swatch, name), bar),
      value,
      measure !== "count" && events,
      isStacked(measure) && share,
    );
    return { row, swatch, bar, value, events, share };
  }

  private fill({ swatch, bar, value, events, share }: Line, one: Series, measure: Measure, most: number, whole: number): void {
    const number = one.sum.number(measure) ?? 0;
    const colour = (colours ??= palette()).of(one.colour);
    swatch.style.background = bar.style.background = colour;
    bar.style.width = `${(100 * Math.abs(number)) / most}%`;
    say(value, one.sum.text(measure));
    say(events, one.sum.text("count"));
    say(share, whole > 0 ? `${((100 * number) / whole).toFixed(1)} %` : "");
  }
}

/** What the chart shows, in figures, newest first. */
export function showWindows(place: HTMLElement, board: Board, revisions: Map<number, Revision>): void {
  const { buckets, series, totals, phases, question, step, before } = board;
  const order = buckets
    .map((_, at) => at)
    .reverse()
    .filter((at) => totals[at]!.count || before?.[at]?.count);
  const shown = order.slice(0, MOST_WINDOWS);
  const groups = question.groupBy.length ? series : [];
  const number = (value: number | null | undefined) =>
    value === null || value === undefined
      ? "–"
      : value.toLocaleString("en-US", { maximumFractionDigits: question.measure === "count" ? 0 : 2 });
  const row = (at: number) => {
    const late = revisions.get(buckets[at]!.from);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, bucketName(buckets[at]!, step, question.zone)),
      h("td", { class: "word" }, phases[at]!),
      h("td", {}, totals[at]!.count.toLocaleString("en-US")),
      h("td", {}, late ? `+${(late.to - late.from).toLocaleString("en-US")}` : "–"),
      question.measure !== "count" && h("td", {}, totals[at]!.text(question.measure)),
      before && h("td", {}, before[at]!.count ? before[at]!.text(question.measure) : "–"),
      ...groups.map((one) => h("td", {}, number(one.values[at]))),
    );
  };
  const names = [
    "Window",
    "Stands",
    "Revision",
    "Late",
    question.measure !== "count" ? MEASURES[question.measure] : null,
    before ? "Period before" : null,
    ...groups.map((one) => one.name),
  ];
  place.replaceChildren(
    h(
      "table",
      {},
      h(
        "caption",
        {},
        `${MEASURES[question.measure]} by window, newest first. The revision is the number of events counted; late are those that came when the window's time was over, since this page was opened.`,
      ),
      head(...names),
      h("tbody", {}, ...shown.map(row)),
    ),
    order.length > shown.length
      ? h("p", { class: "small" }, `${order.length - shown.length} older windows are not shown; /v1/query.csv has all.`)
      : "",
  );
}

/** Windows that late events have changed. */
export function showRevisions(
  place: HTMLElement,
  { buckets, step, question, range }: Board,
  revisions: Map<number, Revision>,
  watermark: number | null,
  lateness: number,
): void {
  const known = new Map(buckets.map((bucket) => [bucket.from, bucket]));
  const shown = [...revisions.values()]
    .reverse()
    .filter((revision) => known.has(revision.window))
    .slice(0, 50);
  const stands = ({ window }: Revision) => phase(Math.min(known.get(window)!.to, range.to), watermark, lateness);
  const row = (revision: Revision) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, bucketName(known.get(revision.window)!, step, question.zone)),
      h("td", { class: "word" }, stands(revision)),
      h("td", {}, `+${(revision.to - revision.from).toLocaleString("en-US")}`),
      h("td", {}, revision.to.toLocaleString("en-US")),
      h("td", { class: "dim" }, clockSeconds(revision.at, question.zone)),
    );
  redraw(place, shown.map((revision) => [revision.window, revision.to, stands(revision)]).join("|") + question.zone, () =>
    shown.length
      ? [h("table", {}, head("Window", "Stands", "Late", "Revision", "Last"), h("tbody", {}, ...shown.map(row)))]
      : [h("p", { class: "dim" }, "None yet.")],
  );
}
