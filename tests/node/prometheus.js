// Asks a server by the npm package prometheus-query, and prints as JSON what the package understood. tests/it/tests/prometheus.rs
// compares.
//   node prometheus.js URL '{"instant": QUERY, "range": QUERY, "selector": SELECTOR, "from": MS, "to": MS, "step": SECONDS}'
import { PrometheusDriver } from "prometheus-query";

const [url, questions] = process.argv.slice(2);
const { instant, range, selector, from, to, step } = JSON.parse(questions);
const byGet = new PrometheusDriver({ endpoint: url });
const byPost = new PrometheusDriver({ endpoint: url, preferPost: true });

const series = ({ result }) =>
  result.map(({ metric, value, values }) => ({
    labels: metric.labels,
    values: (values ?? [value]).map(({ time, value }) => [time.getTime(), value]),
  }));

console.log(
  JSON.stringify({
    instant: series(await byPost.instantQuery(instant, to)),
    range: series(await byGet.rangeQuery(range, from, to, step)),
    series: (await byGet.series([selector], from, to)).map(({ labels }) => labels),
    values: await byGet.labelValues("event_type", [selector]),
    names: await byGet.labelNames(),
    metadata: await byGet.metadata(),
    buildinfo: await byGet.statusBuildinfo(),
  }),
);
