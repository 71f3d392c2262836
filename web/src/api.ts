// Requests to the server that the page came from.

/** A key is wanted, or this one opens nothing here. */
export class Locked extends Error {}

/** The server refuses, and says why; asking again is of no use. */
export class Refused extends Error {}

/** Where keys are wanted: this tab remembers the one that was typed in, and no other place does. */
const KEY = "key";
export function remember(key: string): void {
  sessionStorage.setItem(KEY, key);
}

export function isKeyed(): boolean {
  return sessionStorage.getItem(KEY) !== null;
}

/** How far the server's clock is ahead of this one, in milliseconds. */
let ahead = 0;
export function now(): number {
  return Date.now() + ahead;
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const key = sessionStorage.getItem(KEY);
  const headers = new Headers(init.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  const response = await fetch(path, { ...init, headers, cache: "no-store" });
  hear(response.headers.get("date"));
  if (response.ok) return response;
  const detail = await problem(response);
  if (response.status === 401) throw new Locked(key ? "This key is not known here." : "This server wants a key.");
  if (response.status === 403) throw new Locked(detail);
  throw response.status < 500 && response.status !== 429 ? new Refused(detail) : new Error(detail);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, signal ? { signal } : {})).json()) as T;
}

/** A file. */
export async function fetched(path: string): Promise<Blob> {
  return (await request(path)).blob();
}

/** A header's time is whole seconds; less than two do not matter. */
function hear(date: string | null): void {
  const difference = date ? Date.parse(date) + 500 - Date.now() : 0;
  ahead = Math.abs(difference) > 2_000 ? difference : 0;
}

/** What a problem document says. */
async function problem(response: Response): Promise<string> {
  try {
    const { detail, title } = (await response.json()) as { detail?: string; title?: string };
    return detail ?? title ?? response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}
