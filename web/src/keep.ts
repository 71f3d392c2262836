// The answer that is shown, to be kept: addresses at which it stays the same for ever.

import { fetched, isKeyed } from "./api.ts";
import type { Board } from "./board.ts";
import { h } from "./dom.ts";
import type { Held } from "./held.ts";
import { query } from "./question.ts";

/** Longer addresses, of the cuts of very many partitions, are not taken everywhere. */
const LONGEST = 4_096;

/** Links of `place`, each to what its `data-path` names. They stay what they are while figures change, so that neither a click
 * nor the focus is lost. */
export class Keep {
  private readonly links: HTMLAnchorElement[];

  /** `refused` hears what the server says where a file cannot be had. */
  constructor(
    private readonly place: HTMLElement,
    refused: (error: Error) => void,
  ) {
    this.links = [...place.querySelectorAll("a")];
    for (const link of this.links)
      link.addEventListener("click", (event) => {
        // A link alone carries no key.
        if (!isKeyed()) return;
        event.preventDefault();
        void fetched(link.href).then((blob) => save(blob, link.download), refused);
      });
  }

  show({ question, range }: Board, { generation, cut }: Held, now: number): void {
    const positions = Object.entries(cut).map(([partition, next]) => `${partition}:${next}`);
    const at = `at=${generation}/${positions.join(",")}`;
    const rows = query(question, now, question.groupBy.length > 0, range);
    const number = query({ ...question, step: "total" }, now, false, range);
    for (const link of this.links) {
      const path = link.dataset["path"]!;
      link.href = `${path}?${path === "/v1/explain" ? number : rows}&${at}`;
    }
    this.place.hidden = this.links.some((link) => link.href.length > LONGEST);
  }
}

function save(blob: Blob, file: string): void {
  const href = URL.createObjectURL(blob);
  h("a", { href, download: file }).click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
