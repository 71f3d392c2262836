// Amounts, exact: a sum has up to 38 digits, more than a number holds.

const SCALE = 10_000n;

/** `"-12.34"` in ten-thousandths. */
export function parse(text: string): bigint {
  const negative = text.startsWith("-");
  const [whole = "0", fraction = ""] = (negative ? text.slice(1) : text).split(".");
  const value = BigInt(whole) * SCALE + BigInt(fraction.padEnd(4, "0").slice(0, 4));
  return negative ? -value : value;
}

/** Ten-thousandths as people read them, with two digits, or four where they matter. */
export function show(value: bigint): string {
  const magnitude = value < 0n ? -value : value;
  const whole = (magnitude / SCALE).toLocaleString("en-US");
  const fraction = (magnitude % SCALE).toString().padStart(4, "0");
  return `${value < 0n ? "−" : ""}${whole}.${fraction.endsWith("00") ? fraction.slice(0, 2) : fraction}`;
}

/** Near enough to be drawn. */
export function approximate(value: bigint): number {
  return Number(value) / Number(SCALE);
}

/** A mean, rounded half away from zero to a ten-thousandth. */
export function mean(sum: bigint, n: bigint): bigint {
  const half = sum < 0n ? -n / 2n : n / 2n;
  return (sum + half) / n;
}
