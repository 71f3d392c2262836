// The overlays of deploy/kubernetes, as kustomize builds them: by the schemas of Kubernetes, KEDA and the Prometheus
// operator, by the rules below, and for each rule a broken copy that it must refuse.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { parse as parseToml } from "smol-toml";
import { parseAllDocuments } from "yaml";

const here = dirname(fileURLToPath(import.meta.url));
const defaults = parseToml(readFileSync(join(process.env.TIDEMARK_ROOT, "tidemark.default.toml"), "utf8"));
const packages = { "keda.sh": "@kubernetes-models/keda", "monitoring.coreos.com": "@kubernetes-models/prometheus-operator" };

/** The model of a kind, which knows its schema. */
async function model({ apiVersion, kind }) {
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  const module = await import(`${packages[group] ?? "kubernetes-models"}/${apiVersion}/${kind}`);
  return module[kind];
}

const matches = (selector, labels) => Object.entries(selector).every(([name, value]) => labels?.[name] === value);

/** Everything that is wrong with an overlay, as sentences. */
async function faults(text) {
  const objects = parseAllDocuments(text).map((document) => document.toJS());
  const found = [];
  for (const object of objects) {
    try {
      new (await model(object))(object).validate();
    } catch (error) {
      found.push(`schema: ${object.kind} ${object.metadata?.name}: ${error.message}`);
    }
  }
  if (found.length > 0) return found;
  const of = (kind) => objects.filter((object) => object.kind === kind);
  const named = (kind, name) => of(kind).find((object) => object.metadata.name === name);
  for (const { metadata, spec } of of("Deployment")) {
    const say = (what) => found.push(`${metadata.name}: ${what}`);
    const { metadata: pod, spec: template } = spec.template;
    if (!matches(spec.selector.matchLabels, pod.labels)) say("selects other pods than its own");
    if (spec.replicas !== undefined) say("says how many, against its autoscaler");
    if (!template.securityContext?.runAsNonRoot) say("may run as root");
    if (template.securityContext?.seccompProfile?.type !== "RuntimeDefault") say("has no seccomp profile");
    for (const container of template.containers) {
      const { securityContext: rights, resources } = container;
      if (!rights?.readOnlyRootFilesystem) say("may write to its root file system");
      if (rights?.allowPrivilegeEscalation !== false || !rights?.capabilities?.drop?.includes("ALL")) say("has rights that it does not need");
      for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) if (!container[probe]) say(`has no ${probe}`);
      if (container.livenessProbe?.httpGet?.path === "/readyz") say("is killed for not being ready");
      if (!resources?.requests?.cpu || !resources?.requests?.memory || !resources?.limits?.memory) say("has no resources");
      if (!container.args.includes("0.0.0.0:8080") || !container.ports.some((port) => port.containerPort === 8080)) say("listens elsewhere than its port");
      for (const { name } of container.volumeMounts) {
        const volume = template.volumes.find((volume) => volume.name === name);
        if (!named("ConfigMap", volume?.configMap?.name)) say(`mounts ${name}, which is not there`);
      }
    }
    const own = (object) => matches(object.spec.selector?.matchLabels ?? object.spec.selector, pod.labels);
    if (!of("PodDisruptionBudget").some(own)) say("has no disruption budget");
    const service = of("Service").find(own);
    if (!service) say("has no service");
    else if (!of("ServiceMonitor").some((monitor) => matches(monitor.spec.selector.matchLabels, service.metadata.labels))) say("is not scraped");
    const scalers = [...of("HorizontalPodAutoscaler"), ...of("ScaledObject")];
    const scaler = scalers.filter((object) => object.spec.scaleTargetRef.name === metadata.name);
    if (scaler.length !== 1) say(`has ${scaler.length} autoscalers`);
  }
  for (const { metadata, spec } of of("ScaledObject")) {
    const configured = parseToml(of("ConfigMap")[0].data["tidemark.toml"]);
    const partitions = configured.kafka.partitions ?? defaults.kafka.partitions;
    if (spec.maxReplicaCount > partitions) found.push(`${metadata.name}: more pods than partitions`);
    if (!spec.advanced?.horizontalPodAutoscalerConfig?.behavior?.scaleDown?.stabilizationWindowSeconds) found.push(`${metadata.name}: may flap`);
    const kafka = spec.triggers.find((trigger) => trigger.type === "kafka")?.metadata;
    if (kafka && kafka.bootstrapServers !== configured.kafka.bootstrap) found.push(`${metadata.name}: looks at another Kafka than the one that is counted`);
    const topic = configured.kafka.topic ?? defaults.kafka.topic;
    if (kafka && kafka.topic !== topic) found.push(`${metadata.name}: looks at another topic`);
  }
  const denied = of("NetworkPolicy").some(({ spec }) => Object.keys(spec.podSelector).length === 0 && spec.policyTypes.length === 2 && !spec.ingress && !spec.egress);
  if (!denied) found.push("traffic that nobody has thought of is let through");
  for (const map of of("ConfigMap")) {
    const known = (settings, from, path) => {
      for (const [name, value] of Object.entries(settings)) {
        if (path === "" && name === "key") continue;
        if (!(name in from)) found.push(`tidemark.toml: ${path}${name} is no setting`);
        else if (typeof value === "object" && !Array.isArray(value)) known(value, from[name], `${path}${name}.`);
        if (/password/.test(name)) found.push(`tidemark.toml: ${path}${name} is a secret`);
      }
    };
    known(parseToml(map.data["tidemark.toml"]), defaults, "");
  }
  return found;
}

const overlays = ["small", "large"].map((name) => [name, readFileSync(join(here, `${name}.yaml`), "utf8")]);
for (const [name, text] of overlays) {
  test(`the overlay ${name} is as the schemas and our rules want it`, async () => {
    assert.deepEqual(await faults(text), []);
    const kinds = parseAllDocuments(text).map((document) => document.toJS().kind);
    for (const [kind, count] of [["Deployment", 4], ["Service", 4], ["PodDisruptionBudget", 4], ["ScaledObject", 2], ["HorizontalPodAutoscaler", 2]]) {
      assert.equal(kinds.filter((one) => one === kind).length, count, kind);
    }
  });
}

const [, small] = overlays[0];
const broken = [
  ["maxReplicas: 3", "maxReplicas: three", /^schema: HorizontalPodAutoscaler/],
  ["cooldownPeriod: 300", "cooldownPeriod: soon", /^schema: ScaledObject/],
  ["readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", /may write to its root/],
  ["runAsNonRoot: true", "runAsNonRoot: false", /may run as root/],
  ["maxReplicaCount: 3", "maxReplicaCount: 13", /more pods than partitions/],
  ["bootstrapServers: kafka:9092", "bootstrapServers: other:9092", /looks at another Kafka/],
  ["    user = \"tidemark\"", "    users = \"tidemark\"", /clickhouse.users is no setting/],
  ["    user = \"tidemark\"", "    password = \"x\"", /clickhouse.password is a secret/],
  ["kind: PodDisruptionBudget", "kind: PodTemplate", /^schema|has no disruption budget/],
  ["path: /healthz", "path: /readyz", /is killed for not being ready/, true],
  ["  - Ingress\n  - Egress", "  - Ingress", /nobody has thought of/],
];
for (const [what, instead, fault, everywhere] of broken) {
  test(`refused: ${JSON.stringify(instead)} instead of ${JSON.stringify(what)}`, async () => {
    assert.ok(small.includes(what), "there is nothing to break here any more");
    const found = await faults(everywhere ? small.replaceAll(what, instead) : small.replace(what, instead));
    assert.ok(found.some((line) => fault.test(line)), `found only ${JSON.stringify(found)}`);
  });
}

const program = process.env.TIDEMARK_BIN;
test("the program takes the flags that it is given", { skip: program ? false : "TIDEMARK_BIN is not set" }, () => {
  for (const document of parseAllDocuments(small)) {
    const object = document.toJS();
    if (object.kind !== "Deployment") continue;
    const [command, ...words] = object.spec.template.spec.containers[0].args;
    const help = execFileSync(program, [command, "--help"], { encoding: "utf8" });
    for (const flag of words.filter((word) => word.startsWith("--"))) assert.match(help, new RegExp(`${flag}\\b`));
  }
});
