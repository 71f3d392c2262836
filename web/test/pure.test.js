// What the page decides without a page.
import assert from "node:assert/strict";
import { test } from "node:test";
import { troubles } from "../src/banner.ts";
import { Colours, board } from "../src/board.ts";
import * as decimal from "../src/decimal.ts";
import { Held, Sum, rowsOf } from "../src/held.ts";
import { query, read, write } from "../src/question.ts";
import { DAY, HOUR, WINDOW, buckets, fromInput, last, span, stepFor, toInput } from "../src/time.ts";

const at = (text) => Date.parse(text);

test("amounts are exact, however large", () => {
  for (const [text, shown] of [
    ["0.0000", "0.00"],
    ["-0.5000", "−0.50"],
    ["12.3456", "12.3456"],
    ["99999999999999999999999999.9900", "99,999,999,999,999,999,999,999,999.99"],
  ]) {
    assert.equal(decimal.show(decimal.parse(text)), shown);
  }
  assert.deepEqual(
    [
      [100001n, 2n],
      [-100001n, 2n],
      [1n, 3n],
    ].map(([sum, n]) => decimal.mean(sum, n)),
    [50001n, -50001n, 0n],
  );
});

test("a range that moves ends with the window of now, and has a step that suits it", () => {
  assert.deepEqual(last(HOUR, at("2026-11-27T14:07:30Z")), { from: at("2026-11-27T13:10:00Z"), to: at("2026-11-27T14:10:00Z") });
  assert.deepEqual(["3h", "7d", "20m", "7m", "0h", "h", "3w"].map(span), [3 * HOUR, 7 * DAY, 4 * WINDOW, null, null, null, null]);
  assert.deepEqual(
    [1, 24, 72, 24 * 12, 24 * 90, 24 * 700].map((hours) => stepFor({ from: 0, to: hours * HOUR })),
    ["5m", "5m", "15m", "1h", "1d", "1w"],
  );
});

test("days are the zone's, also where clocks change, and hours are not", () => {
  const all = (from, to, step, zone) =>
    buckets({ from: at(from), to: at(to) }, step, zone).map((bucket) => new Date(bucket.from).toISOString().slice(0, 16));
  assert.deepEqual(all("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", "1d", "Europe/Berlin"), [
    "2026-03-27T23:00",
    "2026-03-28T23:00",
    "2026-03-29T22:00",
  ]);
  assert.deepEqual(all("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z", "1d", "America/St_Johns"), [
    "2026-10-24T02:30",
    "2026-10-25T02:30",
    "2026-10-26T02:30",
  ]);
  // Midnight does not exist there on that day.
  assert.deepEqual(all("2018-11-04T12:00:00Z", "2018-11-05T12:00:00Z", "1d", "America/Sao_Paulo"), [
    "2018-11-04T03:00",
    "2018-11-05T02:00",
  ]);
  assert.deepEqual(all("2026-11-25T12:00:00Z", "2026-12-01T00:00:00Z", "1w", "UTC"), ["2026-11-23T00:00", "2026-11-30T00:00"]);
  assert.deepEqual(all("2026-11-25T12:00:00Z", "2026-12-01T00:00:00Z", "1w", "Asia/Tokyo"), ["2026-11-22T15:00", "2026-11-29T15:00"]);
  assert.deepEqual(all("2026-11-25T12:35:00Z", "2026-11-25T14:00:00Z", "1h", "Asia/Kolkata"), ["2026-11-25T12:00", "2026-11-25T13:00"]);
  for (const zone of ["UTC", "Asia/Kolkata", "America/New_York"])
    assert.equal(fromInput(toInput(at("2026-07-01T10:15:00Z"), zone), zone), at("2026-07-01T10:15:00Z"));
});

test("an address says all that is asked, and is read as it was written", () => {
  const asked = {
    last: null,
    from: at("2026-11-01T00:00:00Z"),
    to: at("2026-11-02T00:00:00Z"),
    step: "1h",
    groupBy: ["event_type", "product_id"],
    filters: [
      { dimension: "event_type", value: "a:b,&=é" },
      { dimension: "product_id", value: "" },
    ],
    measure: "avg",
    top: 5,
    zone: "Asia/Tokyo",
    compare: true,
  };
  assert.deepEqual(read(write(asked)), asked);
  const moving = { ...asked, last: "7d", from: 0, to: 0, step: null, groupBy: [], filters: [], measure: "count", top: 8, compare: false };
  assert.deepEqual(read(write(moving)), moving);
  // What cannot be is not asked.
  const odd = read("?last=7m&step=9m&measure=median&top=999&tz=Mars/Phobos&where=nothing");
  assert.deepEqual([odd.last, odd.step, odd.measure, odd.top, odd.zone, odd.filters], ["3h", null, "count", 8, "UTC", []]);
  assert.equal(
    query(asked, 0, true),
    "from=1793491200000&to=1793577600000&step=1h&tz=Asia%2FTokyo&where=event_type%3Aa%3Ab%2C%26%3D%C3%A9&where=product_id%3A&measures=count%2Camount_count%2Csum&group_by=event_type%2Cproduct_id&top=5%3Aavg",
  );
});

const row = (window, count, more = {}) => ({ window: new Date(window).toISOString(), count, ...more });
const told = (kind, rows, more = {}) => ({ kind, data: { rows, gone: [], cut: { 0: 1 }, generation: 1, watermark: null, ...more } });
const isOver = (window, watermark) => window + WINDOW <= watermark;

test("what is held follows what is pushed", () => {
  const held = new Held(["event_type"]);
  held.hear(told("snapshot", [row(0, 2, { event_type: "a" }), row(0, 1, { event_type: "b" })]), 0, isOver);
  held.hear(told("change", [row(0, 3, { event_type: "a", final: true })], { gone: [row(0, 0, { event_type: "b" })] }), 0, isOver);
  assert.deepEqual(
    [...held.rows.values()].map(({ group, count, final }) => [group, count, final]),
    [[["a"], 3, true]],
  );
  held.hear(told("snapshot", [row(WINDOW, 7, { event_type: "c" })]), 0, isOver);
  assert.deepEqual(
    [...held.rows.values()].map(({ window, count }) => [window, count]),
    [[WINDOW, 7]],
  );
  assert.equal(held.hear({ kind: "lagged", data: { missed: 3 } }, 0, isOver), false);
});

test("an event is late if its window was over before it came", () => {
  const held = new Held([]);
  held.hear(told("snapshot", [row(0, 2), row(WINDOW, 5)], { watermark: new Date(WINDOW + 1).toISOString() }), 0, isOver);
  held.hear(told("change", [row(0, 3), row(WINDOW, 6)], { watermark: new Date(3 * WINDOW).toISOString() }), 10, isOver);
  held.hear(told("change", [row(0, 5)]), 20, isOver);
  const revised = () => [...held.revisions.values()].map(({ window, from, to, at }) => [window, from, to, at]);
  assert.deepEqual(revised(), [[0, 2, 5, 20]]);
  // That a window has become final is no revision, and other rules' counts are none.
  held.hear(told("change", [row(WINDOW, 6, { final: true })]), 30, isOver);
  held.hear(told("snapshot", [row(0, 9), row(WINDOW, 9)], { generation: 2 }), 40, isOver);
  assert.equal(revised().length, 1);
  // Cut off meanwhile: the whole answer tells it, too.
  held.hear(told("snapshot", [row(0, 9), row(WINDOW, 10)], { generation: 2 }), 50, isOver);
  assert.deepEqual(revised().at(-1), [WINDOW, 9, 10, 50]);
});

function shown(more, parts) {
  const question = { ...read("?from=0&to=900000&step=5m&tz=UTC"), ...more };
  return board(question, { groups: null, before: null, watermark: null, lateness: 0, now: 0, ...parts }, new Colours());
}

test("groups and all others make up the whole", () => {
  const [total, groups] = [new Held([]), new Held(["event_type"])];
  total.hear(told("snapshot", [row(0, 5), row(2 * WINDOW, 4)]), 0, isOver);
  groups.hear(
    told("snapshot", [row(0, 1, { event_type: "a" }), row(0, 2, { event_type: "" }), row(2 * WINDOW, 4, { event_type: "a" })]),
    0,
    isOver,
  );
  const { series, total: sum, phases } = shown({}, { total, groups, watermark: WINDOW + 1, lateness: WINDOW });
  assert.deepEqual(
    series.map(({ name, values }) => [name, values]),
    [
      ["a", [1, null, 4]],
      ["(none)", [2, null, null]],
      ["All others", [2, null, null]],
    ],
  );
  assert.deepEqual([sum.count, phases], [9, ["closing", "live", "live"]]);
});

test("the period before lies on the one that is shown", () => {
  const total = new Held([]);
  total.hear(told("snapshot", [row(3 * WINDOW, 1)]), 0, isOver);
  const before = rowsOf({ rows: [row(0, 7), row(2 * WINDOW, 9)] });
  const { before: moved } = shown({ from: 3 * WINDOW, to: 6 * WINDOW }, { total, before });
  assert.deepEqual(
    moved.map((sum) => sum.count),
    [7, 0, 9],
  );
});

test("cells merge in any order", () => {
  const cells = rowsOf({
    rows: [
      ["2.5000", 1],
      ["-1.0000", 2],
      [null, 0],
    ].map(([sum, n], at) => row(at * WINDOW, n + 1, { amount_count: n, sum: sum ?? "0.0000", min: sum, max: sum })),
  });
  const texts = (order) =>
    ["count", "sum", "avg", "min", "max"].map((measure) => order.reduce((all, n) => all.add(cells[n]), new Sum()).text(measure));
  assert.deepEqual(texts([0, 1, 2]), ["6", "1.50", "0.50", "−1.00", "2.50"]);
  assert.deepEqual(texts([2, 1, 0]), texts([0, 1, 2]));
});

test("what is not well is said in words", () => {
  const well = {
    partitions: [{ partition: 0, ready: true, lag: 0, lag_ms: 0 }],
    live: { from: "memory", trouble: null },
    layers: { speed: { paused: false, trouble: null } },
    ledger: { repairing: [], trouble: null },
    broken_invariants: 0,
  };
  const words = (more) => troubles({ ...well, ...more }).map(({ grave, text }) => `${grave} ${text}`);
  assert.deepEqual(words({}), []);
  const check = (more, pattern) => assert.match(words(more).join(), pattern);
  check({ layers: { batch: { paused: true, trouble: null } } }, /^true The batch layer is paused/);
  check(
    { layers: { speed: { paused: false, trouble: "waiting for the log" } }, live: { from: "memory", trouble: "waiting for the log" } },
    /^true Waiting for the log\.$/,
  );
  check({ live: { from: "redis", trouble: "redis is gone" } }, /Redis is gone\. History alone answers/);
  check({ partitions: [{ partition: 3, ready: false }] }, /^true Partition 3 cannot answer yet/);
  check(
    { partitions: [{ partition: 1, ready: true, lag: 1234, lag_ms: 45_000 }] },
    /^true Partition 1 is stale: 1,234 records are not counted yet, 45 s behind\.$/,
  );
  check({ ledger: { repairing: [{ partition: 1, epoch: 7 }], trouble: null } }, /^false Being repaired: epoch 7 of partition 1\./);
  check(
    { ledger: { repairing: [], damaged: [{ partition: 1, epoch: 7, what: "a row is gone" }], trouble: null } },
    /^true History is damaged: epoch 7 of partition 1 \(a row is gone\)\./,
  );
  check({ ledger: { repairing: null, trouble: "no route" } }, /^false History does not answer: No route\./);
  check({ broken_invariants: 2 }, /^true 2 checks of invariants have failed/);
});
