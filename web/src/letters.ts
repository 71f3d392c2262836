// Dead letters, a page at a time: what was not counted, and why.

import { get } from "./api.ts";
import { byId, h, say } from "./dom.ts";
import { dayAndClock } from "./time.ts";

type Letter = { partition: number; offset: number; record_timestamp: string; reason: string; payload?: string; payload_hex?: string };
type Page = { dead_letters: Letter[]; next: string | null };

const LIMIT = 20;

/** So much of a payload is shown at first. */
const SHORT = 240;

export class Letters {
  /** Where the pages begin that have been seen, the newest first; the last is the one that is shown. */
  private seen: string[] = [""];
  private next: string | null = null;
  private readonly reasons = new Set<string>();
  private asking = 0;

  constructor(
    private readonly zone: () => string,
    private readonly failed: (error: Error) => void,
  ) {
    byId("refresh").addEventListener("click", () => void this.first());
    byId("reason").addEventListener("change", () => void this.first());
    byId("older").addEventListener("click", () => this.next && (this.seen.push(this.next), void this.show()));
    byId("newer").addEventListener("click", () => (this.seen.pop(), void this.show()));
  }

  first(): Promise<void> {
    this.seen = [""];
    return this.show();
  }

  async show(): Promise<void> {
    const asking = ++this.asking;
    const reason = byId<HTMLSelectElement>("reason").value;
    const asked = new URLSearchParams({ limit: String(LIMIT) });
    if (reason) asked.set("reason", reason);
    if (this.seen.at(-1)) asked.set("before", this.seen.at(-1)!);
    try {
      const { dead_letters, next } = await get<Page>(`/v1/dead-letters?${asked}`);
      // Somebody may have turned the page meanwhile.
      if (asking !== this.asking) return;
      this.next = next;
      this.fill(dead_letters);
    } catch (error) {
      say(byId("page"), (error as Error).message);
      this.failed(error as Error);
    }
  }

  private fill(letters: Letter[]): void {
    for (const { reason } of letters) this.reasons.add(reason);
    const select = byId<HTMLSelectElement>("reason");
    const known = new Set([...select.options].map((option) => option.value));
    for (const reason of [...this.reasons].sort()) if (!known.has(reason)) select.append(h("option", { value: reason }, reason));
    const row = (letter: Letter) =>
      h(
        "tr",
        {},
        h("td", { class: "when" }, dayAndClock(Date.parse(letter.record_timestamp), this.zone())),
        h("td", {}, `${letter.partition}:${letter.offset}`),
        h("td", { class: "word" }, letter.reason),
        h("td", { class: "payload" }, ...payload(letter)),
      );
    const head = h(
      "thead",
      {},
      h("tr", {}, ...["Record of", "Partition:offset", "Reason", "Payload"].map((name) => h("th", { scope: "col" }, name))),
    );
    byId("letters").replaceChildren(
      letters.length ? h("table", {}, head, h("tbody", {}, ...letters.map(row))) : h("p", { class: "dim" }, "None in history."),
    );
    byId<HTMLButtonElement>("newer").disabled = this.seen.length < 2;
    byId<HTMLButtonElement>("older").disabled = this.next === null;
    say(byId("page"), letters.length ? `Page ${this.seen.length}, ${letters.length} records` : "");
  }
}

function payload({ payload, payload_hex: hex }: Letter): Node[] {
  const text = payload ?? hex ?? "";
  const kind = payload === undefined ? [h("small", {}, "not UTF-8, in hexadecimal ")] : [];
  if (text.length <= SHORT) return [...kind, h("code", {}, text || "(empty)")];
  return [...kind, h("details", {}, h("summary", {}, h("code", {}, `${text.slice(0, SHORT)}…`)), h("code", { class: "whole" }, text))];
}
