// A query that is listened to: server-sent events, read by fetch, because an EventSource sends no key.

import { Locked, Refused, request } from "./api.ts";

/** The server says something every 15 s; silence for so long is a connection that is lost. */
const SILENCE = 40_000;
const RETRY = 1_000;
const RETRY_MOST = 10_000;

export type Told = { kind: string; data: unknown };

export type Listener = {
  told(event: Told): void;
  /** The stream is open again, or lost, and why. */
  connected(): void;
  lost(why: Error): void;
};

/** Listens until `signal` says that it is enough; where it is cut off, it goes on behind the last event that it was told. */
export async function listen(query: string, listener: Listener, signal: AbortSignal): Promise<void> {
  let [lastId, retry] = ["", RETRY];
  while (!signal.aborted) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    try {
      const headers: HeadersInit = lastId ? { "last-event-id": lastId } : {};
      const response = await request(`/v1/live?${query}`, { headers, signal: attempt.signal });
      listener.connected();
      retry = RETRY;
      for await (const event of events(response.body!, stop)) {
        if (event.id) lastId = event.id;
        listener.told({ kind: event.kind, data: JSON.parse(event.data) });
      }
      throw new Error("the stream has ended");
    } catch (error) {
      if (signal.aborted) return;
      listener.lost(error as Error);
      if (error instanceof Locked || error instanceof Refused) return;
    } finally {
      signal.removeEventListener("abort", stop);
    }
    // Some sooner, some later: not all at once come back to a server that has just started.
    await pause(retry * (0.75 + Math.random() / 2), signal);
    retry = Math.min(2 * retry, RETRY_MOST);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });
}

/** The events of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
async function* events(body: ReadableStream<Uint8Array>, stop: () => void) {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let [text, silence] = ["", setTimeout(stop, SILENCE)];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE);
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const event = parsed(text.slice(0, end));
        if (event.data) yield event;
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

function parsed(text: string): { kind: string; id: string; data: string } {
  const event = { kind: "message", id: "", data: "" };
  for (const line of text.split("\n")) {
    const at = line.indexOf(": ");
    const [name, value] = [line.slice(0, at), line.slice(at + 2)];
    if (name === "event") event.kind = value;
    else if (name === "id") event.id = value;
    else if (name === "data") event.data += value;
  }
  return event;
}
