// What /v1/status says, as far as the page shows it.

export type Account = { from: number; to: number; events: number; duplicates: number; dead_letters: number; holes: number };

export type Partition = {
  partition: number;
  ready: boolean;
  /** Absent while nothing is known of it. */
  mark?: number;
  history?: number;
  speed?: number;
  end?: number;
  lag?: number;
  lag_ms?: number | null;
  history_lag?: number;
  closed_epochs?: number;
  open_epochs?: number;
  cells?: number;
  accounted?: Account | null;
};

export type Layer = { paused: boolean; trouble: string | null };

export type Status = {
  topic: string;
  generation: number;
  epoch_bits: number;
  views: { name: string; dimensions: string[] }[];
  dimensions: string[];
  partitions: Partition[];
  watermark: string | null;
  lateness_ms: number;
  other_generations: { generation: number; state: string; partitions: Partition[] }[];
  live: { from: string; trouble: string | null };
  ledger: {
    repairing: { partition: number; epoch: number }[] | null;
    damaged?: { partition: number; epoch: number; what: string }[] | null;
    trouble: string | null;
  };
  layers: Record<string, Layer>;
  reconciliation?: { closed: number; repaired: number };
  broken_invariants: number;
};

/** All partitions' together; `null` while that of one is not known. */
export function accounted(partitions: Partition[]): Account | null {
  const sum: Account = { from: 0, to: 0, events: 0, duplicates: 0, dead_letters: 0, holes: 0 };
  for (const { accounted } of partitions) {
    if (!accounted) return null;
    for (const name of Object.keys(sum) as (keyof Account)[]) sum[name] += accounted[name];
  }
  return sum;
}

export function total(partitions: Partition[], of: (partition: Partition) => number | null | undefined): number {
  return partitions.reduce((sum, partition) => sum + (of(partition) ?? 0), 0);
}

/** How far behind the slowest partition is; `null` if that is not known of one. */
export function behind(partitions: Partition[]): number | null {
  const lags = partitions.map((partition) => (partition.ready ? partition.lag_ms : null));
  return lags.reduce<number | null>((most, lag) => (most === null || lag === null || lag === undefined ? null : Math.max(most, lag)), 0);
}

export function figure(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-US");
}

export function seconds(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms < 120_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`;
}
