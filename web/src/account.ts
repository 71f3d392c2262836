// What became of every record.

import { h, redraw } from "./dom.ts";
import { accounted, figure, type Account, type Status } from "./status.ts";

const FATES: [keyof Account, string, string][] = [
  ["events", "counted", "counted"],
  ["duplicates", "duplicates", "duplicates"],
  ["dead_letters", "dead letters", "dead"],
  ["holes", "holes", "holes"],
];

/** Every offset up to the cut is accounted for: the four add up, or it is said that they do not. */
export function showAccount(place: HTMLElement, status: Status): void {
  const account = accounted(status.partitions);
  if (!account)
    return redraw(place, "unknown", () => [h("p", { class: "dim" }, "Not known now: the ledger of closed epochs has not answered.")]);
  const span = account.to - account.from;
  const sum = FATES.reduce((all, [name]) => all + account[name], 0);
  const share = (value: number) => (span ? (100 * value) / span : 0);
  redraw(place, account, () => {
    const bar = h("div", {
      class: "fates",
      role: "img",
      "aria-label": FATES.map(([name, word]) => `${figure(account[name])} ${word}`).join(", "),
    });
    for (const [name, , kind] of FATES) {
      const piece = h("i", { class: kind });
      piece.style.flexGrow = String(account[name]);
      if (account[name]) bar.append(piece);
    }
    const fate = ([name, word, kind]: (typeof FATES)[number]) =>
      h(
        "div",
        {},
        h("dt", {}, h("i", { class: `swatch ${kind}` }), word),
        h(
          "dd",
          {},
          figure(account[name]),
          h("small", {}, `${share(account[name]).toFixed(account[name] && share(account[name]) < 0.1 ? 3 : 1)} %`),
        ),
      );
    const equal =
      sum === span
        ? h(
            "p",
            { class: "sum" },
            h("b", {}, "="),
            ` ${figure(span)} records, from where counting began up to the cut, closed and open epochs together: every offset is one of the four.`,
          )
        : h(
            "p",
            { class: "sum grave" },
            `${figure(sum)} are accounted for, but there are ${figure(span)} offsets: this must not be. Keep the log and the data, and report it.`,
          );
    return [bar, h("dl", {}, ...FATES.map(fate)), equal];
  });
}
