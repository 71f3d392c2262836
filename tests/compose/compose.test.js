// Compose files cannot be run where this project is tested. So they are read: the compose specification's own schema,
// the rules below, and for each rule a broken copy that it must refuse.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import test from "node:test";
import Ajv from "ajv";
import { parse } from "yaml";

const root = process.env.TIDEMARK_ROOT;
const single = { path: join(root, "docker-compose.yml"), published: { tidemark: "up" } };
const scaled = { path: join(root, "deploy/compose-scaled.yml"), published: { serve: "serve", ingest: "ingest" } };
for (const file of [single, scaled]) file.text = readFileSync(file.path, "utf8");
const dockerfile = readFileSync(join(root, "deploy/Dockerfile"), "utf8");
const read = (text) => parse(text, { merge: true });
const dclint = dirname(createRequire(import.meta.url).resolve("dclint/package.json"));
const schema = JSON.parse(readFileSync(join(dclint, "schemas/compose.schema.json"), "utf8"));
const fits = new Ajv({ strict: false, allErrors: true, validateFormats: false, validateSchema: false }).compile(schema);

/** Everything that is wrong with a compose file, as sentences. */
function faults({ path, published }, text) {
  const compose = read(text);
  if (!fits(compose)) return fits.errors.map((error) => `schema: ${error.instancePath} ${error.message}`);
  const found = [];
  const services = Object.entries(compose.services);
  const volumes = new Set();
  for (const [name, service] of services) {
    if (!service.build && !/^[a-z/-]+:v?\d+\.\d+/.test(service.image ?? "")) found.push(`${name}: the image has no version`);
    if (!service.build && !service.healthcheck) found.push(`${name}: no health check`);
    for (const port of service.ports ?? []) {
      if (!/^127\.0\.0\.1:\d+:\d+$/.test(port)) found.push(`${name}: port ${port} is not on loopback alone`);
    }
    for (const volume of service.volumes ?? []) {
      const from = volume.split(":")[0];
      if (!from.startsWith("./")) volumes.add(from);
      else if (!existsSync(join(dirname(path), from))) found.push(`${name}: ${from} is not there`);
    }
    for (const [needed, how] of Object.entries(service.depends_on ?? {})) {
      if (!compose.services[needed]) found.push(`${name}: depends on ${needed}, which is not there`);
      else if (how.condition !== "service_healthy") found.push(`${name}: does not wait until ${needed} is healthy`);
    }
    // The servers that the program is told of are services here, and it waits for them.
    for (const [, host] of (service.command ?? "").matchAll(/(?:^| |,|\/\/)([a-z][a-z0-9-]*):\d+/g)) {
      if (!service.depends_on?.[host]) found.push(`${name}: is told of ${host}, and does not wait for it`);
    }
  }
  for (const volume of volumes) if (!(volume in compose.volumes)) found.push(`the volume ${volume} is not declared`);
  for (const volume in compose.volumes) if (!volumes.has(volume)) found.push(`the volume ${volume} is not used`);
  if (!/--maxmemory-policy noeviction/.test(compose.services.redis?.command)) found.push("redis: may evict what it must keep");
  for (const name of Object.keys(published)) {
    const port = compose.services[name]?.ports?.[0]?.split(":")[2];
    if (!compose.services[name]?.command.includes(`--listen 0.0.0.0:${port}`)) found.push(`${name}: listens where nothing is published`);
  }
  return found;
}

for (const file of [single, scaled]) {
  test(`${file.path.slice(root.length + 1)} is as the compose specification and our rules want it`, () => {
    assert.deepEqual(faults(file, file.text), []);
  });
}

const broken = [
  ["restart: unless-stopped", "restarts: unless-stopped", /^schema: .*additional properties/],
  ["condition: service_healthy", "condition: service_healty", /^schema/],
  ["apache/kafka:4.3.1", "apache/kafka:latest", /^kafka: the image has no version/],
  ["127.0.0.1:8080:8080", "8080:8080", /^tidemark: port 8080:8080 is not on loopback/],
  ["127.0.0.1:8080:8080", "0.0.0.0:8080:8080", /^tidemark: port 0.0.0.0:8080:8080 is not on loopback/],
  ["127.0.0.1:8080:8080", "127.0.0.1:8080:8081", /^tidemark: listens where nothing is published/],
  ["condition: service_healthy", "condition: service_started", /^tidemark: does not wait until kafka is healthy/],
  ["      kafka:\n        condition", "      kafak:\n        condition", /^tidemark: depends on kafak, which is not there/],
  ["--clickhouse http://clickhouse:8123", "--clickhouse http://clickhose:8123", /^tidemark: is told of clickhose/],
  ["- kafka-data:", "- kafka-log:", /^the volume kafka-log is not declared/],
  ["noeviction", "allkeys-lru", /^redis: may evict/],
  ["- ./deploy/prometheus:", "- ./deploy/promoteus:", /^prometheus: .\/deploy\/promoteus is not there/],
  ["    healthcheck:\n      test: [\"CMD\", \"redis-cli\", \"ping\"]\n", "    x-was:\n", /^redis: no health check/],
  ["kafka-3:9092 --clickhouse", "kafka-4:9092 --clickhouse", /^speed: is told of kafka-4/, scaled],
  ["127.0.0.1:8081:8080", "8081:8080", /^ingest: port 8081:8080 is not on loopback/, scaled],
  ["- ./prometheus:", "- ./promoteus:", /^prometheus: .\/promoteus is not there/, scaled],
  ["redis: {condition: service_healthy}", "redis: {condition: service_started}", /^speed: does not wait until redis is healthy/, scaled],
];
for (const [what, instead, fault, file = single] of broken) {
  test(`refused: ${JSON.stringify(instead)} instead of ${JSON.stringify(what)}`, () => {
    assert.ok(file.text.includes(what), "the file has nothing to break here any more");
    const found = faults(file, file.text.replace(what, instead));
    assert.ok(found.some((line) => fault.test(line)), `found only ${JSON.stringify(found)}`);
  });
}

test("the Dockerfile's health check asks the port that is published", () => {
  const asked = dockerfile.match(/\/dev\/tcp\/127\.0\.0\.1\/(\d+)/)?.[1];
  for (const file of [single, scaled]) {
    const built = Object.values(read(file.text).services).filter((service) => service.build);
    for (const service of built) assert.ok(service.command.includes(`--listen 0.0.0.0:${asked}`), service.command);
  }
});

const program = process.env.TIDEMARK_BIN;
test("the program takes the flags that it is given", { skip: program ? false : "TIDEMARK_BIN is not set" }, () => {
  for (const file of [single, scaled]) {
    for (const service of Object.values(read(file.text).services).filter((service) => service.build)) {
      const [command, ...words] = service.command.split(" ");
      const help = execFileSync(program, [command, "--help"], { encoding: "utf8" });
      for (const flag of words.filter((word) => word.startsWith("--"))) assert.match(help, new RegExp(`${flag}\\b`));
    }
  }
});
