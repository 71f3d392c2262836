// Closed and open epochs, and what is made beside them: repairs, and generations that do not answer yet.

import { h, redraw } from "./dom.ts";
import { figure, total, type Status } from "./status.ts";

export function showStanding(place: HTMLElement, status: Status): void {
  const { partitions, reconciliation, ledger, generation, other_generations: others } = status;
  const fact = (name: string, value: string) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const repairing = ledger.repairing?.map(({ partition, epoch }) => `${epoch} of partition ${partition}`).join(", ");
  redraw(
    place,
    [
      generation,
      total(partitions, (p) => p.closed_epochs),
      total(partitions, (p) => p.open_epochs),
      total(partitions, (p) => p.history_lag),
      reconciliation,
      repairing,
      others,
    ],
    () => [
      h(
        "dl",
        { class: "facts" },
        fact("Generation that answers", String(generation)),
        fact("Epochs closed", figure(total(partitions, (partition) => partition.closed_epochs))),
        fact("Epochs open", figure(total(partitions, (partition) => partition.open_epochs))),
        fact("Not in history yet", `${figure(total(partitions, (partition) => partition.history_lag))} records`),
        reconciliation ? fact("Compared and closed since the start", figure(reconciliation.closed)) : "",
        reconciliation ? fact("Repaired since the start", figure(reconciliation.repaired)) : "",
        fact("Being repaired now", repairing === undefined ? "not known" : repairing || "none"),
      ),
      ...others.map(filling),
      others.length === 0 && h("p", { class: "dim" }, "No other generation is there: no replay is under way."),
    ],
  );
}

function filling({ generation, state, partitions }: Status["other_generations"][number]): HTMLElement {
  const end = total(partitions, (partition) => partition.end);
  const part = (name: string, value: number) => {
    const share = end ? Math.min((100 * value) / end, 100) : 0;
    const bar = h(
      "span",
      {
        class: "progress",
        role: "progressbar",
        "aria-label": `Generation ${generation}, ${name}`,
        "aria-valuenow": share.toFixed(1),
        "aria-valuemin": 0,
        "aria-valuemax": 100,
      },
      h("i"),
    );
    (bar.firstElementChild as HTMLElement).style.width = `${share}%`;
    return h(
      "p",
      { class: "part" },
      h("span", {}, name),
      bar,
      h("span", { class: "dim" }, `${figure(value)} of ${figure(end)} records, ${share.toFixed(1)} %`),
    );
  };
  const words: Record<string, string> = {
    building: "is being filled beside the one that answers",
    ready: "is ready, and can be switched to",
    live: "is about to answer",
    dropped: "is being deleted",
  };
  return h(
    "div",
    { class: "generation" },
    h("h3", {}, `Generation ${generation} ${words[state] ?? state}`),
    part(
      "in history",
      total(partitions, (partition) => partition.history),
    ),
    part(
      "compared and closed",
      total(partitions, (partition) => partition.mark),
    ),
  );
}
