// Where each partition stands, drawn: what is closed to the left of the tide mark, what is open to its right.

import { h, redraw } from "./dom.ts";
import { figure, seconds, type Partition, type Status } from "./status.ts";

/** Of a strip's width, the part left of the mark: there history goes on and on. */
const HISTORY = 24;

export function showFreshness(place: HTMLElement, status: Status): void {
  const span = 2 ** status.epoch_bits;
  // One scale for all, so that they can be compared: whole epochs, from the mark.
  const longest = Math.max(...status.partitions.map(({ mark = 0, end = 0 }) => end - mark), 1);
  const scale = longest > span / 8 ? Math.ceil(longest / span + 0.02) * span : longest * 1.25;
  redraw(
    place,
    [status.partitions.map(({ mark, history, speed, end, lag_ms, ready }) => [mark, history, speed, end, lag_ms, ready]), scale],
    () => [
      h(
        "table",
        { class: "tide" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Partition"),
            h(
              "th",
              { scope: "col", class: "strip-head" },
              h("span", { class: "sides" }, h("span", {}, "history"), h("span", {}, "speed layer")),
            ),
            ...[
              ["Mark", "M"],
              ["History", "H"],
              ["Counted to", "S"],
              ["End", ""],
            ].map(([name, letter]) => h("th", { scope: "col" }, name!, letter ? h("abbr", {}, ` ${letter}`) : null)),
            h("th", { scope: "col" }, "Lag"),
          ),
        ),
        h("tbody", {}, ...status.partitions.map((partition) => row(partition, scale, span))),
      ),
    ],
  );
}

function row(partition: Partition, scale: number, span: number): HTMLElement {
  const { mark, history, speed, end, lag, lag_ms, ready } = partition;
  const words = ready
    ? `Partition ${partition.partition}: history answers below ${figure(mark)}, the speed layer from there up to ${figure(speed)}; the log ends at ${figure(end)}`
    : `Partition ${partition.partition} cannot answer yet`;
  const waits = lag ? `${figure(lag)}, ${lag_ms === null || lag_ms === undefined ? "–" : seconds(lag_ms)}` : "0 s";
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, String(partition.partition)),
    h("td", { class: "strip-cell" }, strip(partition, scale, span, words)),
    h("td", {}, figure(mark)),
    h("td", {}, figure(history)),
    h("td", {}, figure(speed)),
    h("td", {}, figure(end)),
    h("td", { class: lag ? "waits" : "" }, ready ? waits : "not ready"),
  );
}

function strip({ mark = 0, history = 0, speed = 0, end = 0 }: Partition, scale: number, span: number, words: string): HTMLElement {
  const strip = h("div", { class: "strip", role: "img", "aria-label": words });
  const right = (position: number) => HISTORY + ((100 - HISTORY) * Math.min(position - mark, scale)) / scale;
  const piece = (kind: string, from: number, to: number) => {
    if (to <= from) return;
    const piece = h("i", { class: kind });
    piece.style.left = `${from}%`;
    piece.style.width = `${to - from}%`;
    strip.append(piece);
  };
  if (mark > 0) piece("closed", 0, HISTORY);
  piece("open", HISTORY, right(speed));
  piece("pending", right(speed), right(end));
  for (let edge = span; edge < scale && scale / span < 40; edge += span) piece("edge", right(mark + edge), right(mark + edge) + 0.001);
  if (history >= mark) piece("reach", right(history), right(history) + 0.001);
  piece("line", HISTORY, HISTORY + 0.001);
  return strip;
}
