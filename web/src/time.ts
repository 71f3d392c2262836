// Instants are milliseconds since 1970; a zone is an IANA name. The calendar is the browser's.

export const MINUTE = 60_000;
export const WINDOW = 5 * MINUTE;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
/** Weeks begin on a Monday; 1970 began on a Thursday. */
const MONDAY = -3 * DAY;

const WIDTHS: Record<string, number> = { "5m": WINDOW, "15m": 3 * WINDOW, "1h": HOUR, "1d": DAY, "1w": 7 * DAY };

/** A half-open range. */
export type Range = { from: number; to: number };

/** `3h` in milliseconds; `null` if it is none. */
export function span(text: string): number | null {
  const parts = /^(\d{1,6})([mhd])$/.exec(text);
  if (!parts) return null;
  const ms = Number(parts[1]) * { m: MINUTE, h: HOUR, d: DAY }[parts[2] as "m" | "h" | "d"];
  return ms > 0 && ms % WINDOW === 0 ? ms : null;
}

/** `3h` in words. */
export function spanName(text: string): string {
  const parts = /^(\d+)([mhd])$/.exec(text);
  if (!parts) return text;
  const name = { m: "minute", h: "hour", d: "day" }[parts[2] as "m" | "h" | "d"];
  return parts[1] === "1" ? name : `${parts[1]} ${name}s`;
}

/** The range that ends with the window of `now`, as the server has it. */
export function last(ms: number, now: number): Range {
  const to = now - (now % WINDOW) + WINDOW;
  return { from: to - ms, to };
}

/** A step by which a range has at most some three hundred windows. */
export function stepFor({ from, to }: Range): string {
  const fits = (step: string) => (to - from) / WIDTHS[step]! <= 300;
  return ["5m", "15m", "1h", "1d"].find(fits) ?? "1w";
}

export function isZone(zone: string): boolean {
  try {
    new Intl.DateTimeFormat("en-GB", { timeZone: zone });
    return true;
  } catch {
    return false;
  }
}

const formats = new Map<string, Intl.DateTimeFormat>();
function format(zone: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = zone + JSON.stringify(options);
  let known = formats.get(key);
  if (!known) formats.set(key, (known = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options })));
  return known;
}

export function clock(ms: number, zone: string): string {
  return format(zone, { hour: "2-digit", minute: "2-digit" }).format(ms);
}

export function clockSeconds(ms: number, zone: string): string {
  return format(zone, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(ms);
}

export function day(ms: number, zone: string): string {
  return format(zone, { day: "numeric", month: "short" }).format(ms);
}

export function dayAndClock(ms: number, zone: string): string {
  return format(zone, { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" }).format(ms);
}

/** A bucket by name: `14:05–14:10`, or the day that it begins on. */
export function bucketName(bucket: Range, step: string, zone: string): string {
  if (step === "1d" || step === "1w")
    return format(zone, { weekday: "short", day: "numeric", month: "short", year: "numeric" }).format(bucket.from);
  return `${day(bucket.from, zone)}, ${clock(bucket.from, zone)}–${clock(bucket.to, zone)}`;
}

/** What clocks in a zone show at an instant, as if it were UTC. */
function local(ms: number, zone: string): number {
  const parts = format(zone, {
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  }).formatToParts(ms);
  const of = (type: string) => Number(parts.find((part) => part.type === type)?.value);
  return Date.UTC(of("year"), of("month") - 1, of("day"), of("hour"), of("minute"), of("second"));
}

/** The first instant at which clocks in a zone show this; where they skip it, the one at which they do. */
function instant(shown: number, zone: string): number {
  // By what they are ahead of UTC a day before, and a day after.
  const [before, after] = [-DAY, DAY].map((other) => shown - (local(shown + other, zone) - (shown + other)));
  return local(before!, zone) !== shown && local(after!, zone) === shown ? after! : before!;
}

/** `2026-11-27T14:05`, as an input wants it, and back. */
export function toInput(ms: number, zone: string): string {
  return new Date(local(ms, zone)).toISOString().slice(0, 16);
}
export function fromInput(text: string, zone: string): number | null {
  const shown = Date.parse(`${text}Z`);
  return Number.isNaN(shown) ? null : instant(shown, zone);
}

/** The buckets that touch a range, whole: hours and less are UTC's, days and weeks the zone's. */
export function buckets({ from, to }: Range, step: string, zone: string): Range[] {
  const width = WIDTHS[step]!;
  const all: Range[] = [];
  if (width < DAY || zone === "UTC") {
    const origin = step === "1w" ? MONDAY : 0;
    for (let at = from - ((((from - origin) % width) + width) % width); at < to; at += width) all.push({ from: at, to: at + width });
    return all;
  }
  const shown = local(from, zone);
  const origin = step === "1w" ? MONDAY : 0;
  // By noon of the first day, whatever clocks do at midnight.
  for (let midnight = shown - ((((shown - origin) % width) + width) % width); ; midnight += width) {
    const at = instant(midnight, zone);
    if (at >= to) return all;
    all.push({ from: at, to: instant(midnight + width, zone) });
  }
}
