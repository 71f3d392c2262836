// Colours for what is drawn on a canvas, from the style sheet, which has them for light and dark.

import { OTHERS } from "./board.ts";

/** Hues in style.css; beyond them they come again, paler. */
const HUES = 10;

export type Palette = { of(series: number): string; ink: string; dim: string; line: string; card: string; accent: string };

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const named = (name: string) => resolved(style.getPropertyValue(`--${name}`).trim());
  const [card, others] = [named("card"), named("others")];
  const hues = Array.from({ length: HUES }, (_, n) => named(`s${n}`));
  const of = (series: number) => {
    if (series === OTHERS) return others;
    const hue = hues[series % HUES]!;
    return series < HUES ? hue : mixed(hue, card);
  };
  return { of, ink: named("ink"), dim: named("dim"), line: named("line"), card, accent: named("accent") };
}

/** `light-dark(…)` as the theme has it, in numbers. */
function resolved(colour: string): string {
  const probe = document.createElement("i");
  probe.style.color = colour;
  document.body.append(probe);
  const now = getComputedStyle(probe).color;
  probe.remove();
  return now;
}

function mixed(one: string, other: string): string {
  const [a, b] = [one, other].map((colour) => (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number));
  return `rgb(${a!.map((part, n) => Math.round(part * 0.6 + (b![n] ?? 0) * 0.4)).join(", ")})`;
}

/** Calls when light becomes dark, or the other way. */
export function onTheme(change: () => void): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", change);
}
