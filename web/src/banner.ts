// What is not as it should be, in words, and what it means for the numbers below.

import { h, redraw, say } from "./dom.ts";
import { seconds, type Status } from "./status.ts";
import { clockSeconds } from "./time.ts";

/** A partition that is further behind than this is said to be. */
const STALE = 10_000;

export type Trouble = { grave: boolean; text: string };

/** Of the server, by its own words. */
export function troubles(status: Status): Trouble[] {
  const found: Trouble[] = [];
  const grave = (text: string) => found.push({ grave: true, text });
  const note = (text: string) => found.push({ grave: false, text });
  if (status.broken_invariants)
    grave(`${status.broken_invariants} checks of invariants have failed: numbers may be wrong. The log says which; keep it and the data.`);
  for (const [name, { paused, trouble }] of Object.entries(status.layers)) {
    if (paused)
      grave(
        name === "speed"
          ? "The speed layer is paused by an operator: nothing new is counted."
          : `The ${name} layer is paused by an operator: history stands still, and epochs stay open.`,
      );
    if (trouble) grave(sentence(trouble));
  }
  if (status.live.trouble && !Object.values(status.layers).some((layer) => layer.trouble === status.live.trouble)) {
    grave(
      `Open epochs cannot be read: ${sentence(status.live.trouble)}${status.live.from === "redis" ? " History alone answers, some seconds older." : ""}`,
    );
  }
  const unready = status.partitions.filter((partition) => !partition.ready).map((partition) => partition.partition);
  if (unready.length) grave(`${partitions(unready)} cannot answer yet: what is in the log is being read.`);
  const stale = status.partitions.filter((partition) => (partition.lag_ms ?? 0) > STALE);
  if (stale.length) {
    const worst = Math.max(...stale.map((partition) => partition.lag_ms ?? 0));
    const records = stale.reduce((sum, partition) => sum + (partition.lag ?? 0), 0);
    grave(
      `${partitions(stale.map((partition) => partition.partition))} ${stale.length === 1 ? "is" : "are"} stale: ${records.toLocaleString("en-US")} records are not counted yet, ${seconds(worst)} behind.`,
    );
  }
  if (status.ledger.trouble)
    note(`History does not answer: ${sentence(status.ledger.trouble)} Live counts go on; what needs history does not.`);
  const damaged = status.ledger.damaged ?? [];
  if (damaged.length) {
    const names = damaged.slice(0, 3).map(({ partition, epoch, what }) => `epoch ${epoch} of partition ${partition} (${what})`);
    grave(
      `History is damaged: ${names.join(", ")}${damaged.length > 3 ? `, and ${damaged.length - 3} more` : ""}. No number comes from there until it is repaired; tidemark audit tells more.`,
    );
  }
  const repairing = status.ledger.repairing ?? [];
  if (repairing.length) {
    const names = repairing.slice(0, 5).map(({ partition, epoch }) => `${epoch} of partition ${partition}`);
    note(
      `Being repaired: epoch ${names.join(", ")}${repairing.length > 5 ? " and others" : ""}. History differed from the speed layer, which goes on answering for ${repairing.length === 1 ? "it" : "them"}.`,
    );
  }
  return found;
}

/** Of the connection. */
export function silent(since: number, zone: string, why: string): Trouble {
  return {
    grave: true,
    text: `The server has not answered since ${clockSeconds(since, zone)} (${why}). All below is as of then; it is asked again and again.`,
  };
}

/** Shows them, what is graver first. Read out is only what is new: figures move with every look. */
export function showTroubles(place: HTMLElement, spoken: HTMLElement, found: Trouble[]): void {
  const sorted = [...found.filter((trouble) => trouble.grave), ...found.filter((trouble) => !trouble.grave)];
  place.hidden = sorted.length === 0;
  redraw(place, sorted.map(({ text }) => text).join("|"), () =>
    sorted.map(({ grave, text }) =>
      h("p", { class: grave ? "grave" : "noted" }, h("strong", {}, grave ? "Attention" : "Note"), h("span", {}, text)),
    ),
  );
  const without = (text: string) => text.replace(/[\d.,:]+/g, "");
  const grave = sorted.filter((trouble) => trouble.grave).map(({ text }) => text);
  if (without(grave.join(" ")) !== without(spoken.textContent ?? "")) say(spoken, grave.join(" "));
}

function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function partitions(numbers: number[]): string {
  return numbers.length === 1 ? `Partition ${numbers[0]}` : `Partitions ${numbers.join(", ")}`;
}
