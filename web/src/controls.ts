// The form above the numbers: from a question to its fields, and back.

import { byId, h, redraw, say } from "./dom.ts";
import { HERE, MEASURES, STEPS, TOPS, range, type Filter, type Measure, type Question } from "./question.ts";
import { WINDOW, fromInput, spanName, toInput } from "./time.ts";

const RANGES = ["1h", "3h", "6h", "12h", "24h", "3d", "7d", "30d", "90d"];
const FIXED = "fixed";

const STEP_NAMES: Record<string, string> = {
  "": "by the range",
  "5m": "5 minutes",
  "15m": "15 minutes",
  "1h": "1 hour",
  "1d": "1 day",
  "1w": "1 week",
};

export class Controls {
  private question: Question | null = null;
  private dimensions: string[] = [];

  /** `asked` hears of each question that somebody puts. */
  constructor(
    private readonly asked: (question: Question) => void,
    private readonly now: () => number,
  ) {
    const select = (id: string) => byId<HTMLSelectElement>(id);
    options(
      select("step"),
      ["", ...STEPS].map((step) => [step, STEP_NAMES[step]!]),
    );
    options(select("measure"), Object.entries(MEASURES));
    options(
      select("largest"),
      TOPS.map((n) => [String(n), String(n)]),
    );
    select("step").addEventListener("change", () => this.put({ step: select("step").value || null }));
    select("measure").addEventListener("change", () => this.put({ measure: select("measure").value as Measure }));
    select("largest").addEventListener("change", () => this.put({ top: Number(select("largest").value) }));
    select("zone").addEventListener("change", () => this.put({ zone: select("zone").value }));
    byId<HTMLInputElement>("compare").addEventListener("change", (event) =>
      this.put({ compare: (event.target as HTMLInputElement).checked }),
    );
    select("range").addEventListener("change", () => this.ranged(select("range").value));
    byId("apply").addEventListener("click", () => this.fix());
    byId("add").addEventListener("click", () => this.add());
    byId("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      if (document.activeElement?.id === "value") this.add();
      else if (document.activeElement?.closest("#fixed")) this.fix();
    });
  }

  /** Which dimensions there are, as the server says. */
  know(dimensions: string[], views: string[][]): void {
    if (dimensions.join() === this.dimensions.join()) return;
    this.dimensions = dimensions;
    options(
      byId<HTMLSelectElement>("dimension"),
      dimensions.map((name) => [name, name]),
    );
    const covered = new Set(views.flat());
    const box = (name: string) => {
      const change = () =>
        this.put({ groupBy: [...document.querySelectorAll<HTMLInputElement>("#group-by input:checked")].map((input) => input.value) });
      const raw = covered.has(name) ? null : "No view has it: answered from raw events, some seconds older";
      return h("label", { title: raw }, h("input", { type: "checkbox", value: name, change }), name);
    };
    byId("group-by").replaceChildren(h("legend", {}, "Group by"), ...dimensions.map(box));
    if (this.question) this.show(this.question);
  }

  show(question: Question): void {
    this.question = question;
    const set = (id: string, value: string) => (byId<HTMLSelectElement>(id).value = value);
    const ranges = question.last && !RANGES.includes(question.last) ? [...RANGES, question.last] : RANGES;
    const names = ranges.map((last) => [last, `Last ${spanName(last)}`] as [string, string]);
    options(byId<HTMLSelectElement>("range"), [...names, [FIXED, "From … to …"]]);
    set("range", question.last ?? FIXED);
    set("step", question.step ?? "");
    set("measure", question.measure);
    const tops = TOPS.includes(question.top) ? TOPS : [...TOPS, question.top].sort((a, b) => a - b);
    options(
      byId<HTMLSelectElement>("largest"),
      tops.map((n) => [String(n), String(n)]),
    );
    set("largest", String(question.top));
    options(byId<HTMLSelectElement>("zone"), zones(question.zone));
    set("zone", question.zone);
    byId<HTMLInputElement>("compare").checked = question.compare;
    byId("fixed").hidden = question.last !== null;
    if (!question.last) this.fill(question);
    for (const input of document.querySelectorAll<HTMLInputElement>("#group-by input"))
      input.checked = question.groupBy.includes(input.value);
    this.chips(question.filters);
  }

  /** Values that a filter may have, of those that are shown. */
  suggest(values: string[]): void {
    redraw(byId("values"), values.join("\n"), () => values.map((value) => h("option", { value })));
  }

  filter(more: Filter[]): void {
    const filters = [...this.question!.filters];
    for (const filter of more) {
      if (!filters.some((known) => known.dimension === filter.dimension && known.value === filter.value)) filters.push(filter);
    }
    this.put({ filters });
  }

  private put(change: Partial<Question>): void {
    if (this.question) this.asked({ ...this.question, ...change });
  }

  private ranged(chosen: string): void {
    if (chosen !== FIXED) return this.put({ last: chosen });
    // Begins with what is shown now, to be changed.
    const { from, to } = range(this.question!, this.now());
    this.fill({ ...this.question!, from, to });
    byId("fixed").hidden = false;
    byId("from").focus();
  }

  private fill({ from, to, zone }: Question): void {
    byId<HTMLInputElement>("from").value = toInput(from, zone);
    byId<HTMLInputElement>("to").value = toInput(to, zone);
  }

  private fix(): void {
    const zone = this.question!.zone;
    const [from, to] = ["from", "to"].map((id) => fromInput(byId<HTMLInputElement>(id).value, zone));
    const refused = byId("refused");
    if (from === null || to === null || from === undefined || to === undefined) return say(refused, "Say from when to when.");
    if (from >= to) return say(refused, "The range must begin before it ends.");
    if (from % WINDOW || to % WINDOW) return say(refused, "A range begins and ends with a window: on minutes that are multiples of five.");
    say(refused, "");
    this.put({ last: null, from, to });
  }

  private add(): void {
    const [dimension, value] = [byId<HTMLSelectElement>("dimension"), byId<HTMLInputElement>("value")];
    if (!value.value) return value.focus();
    this.filter([{ dimension: dimension.value, value: value.value }]);
    value.value = "";
  }

  private chips(filters: Filter[]): void {
    const chip = (filter: Filter) => {
      const click = () => {
        this.put({ filters: filters.filter((other) => other !== filter) });
        byId("value").focus();
      };
      const name = `${filter.dimension}: ${filter.value || "(none)"}`;
      return h("li", {}, h("span", {}, name), h("button", { type: "button", click, "aria-label": `Remove the filter ${name}` }, "×"));
    };
    byId("chips").replaceChildren(...filters.map(chip));
  }
}

function options(select: HTMLSelectElement, named: [string, string][]): void {
  redraw(select, named.join("|"), () => named.map(([value, name]) => h("option", { value }, name)));
}

function zones(chosen: string): [string, string][] {
  const first = [...new Set([chosen, HERE, "UTC"])];
  const rest = Intl.supportedValuesOf("timeZone").filter((zone) => !first.includes(zone));
  return [...first, ...rest].map((zone) => [zone, zone.replaceAll("_", " ")]);
}
