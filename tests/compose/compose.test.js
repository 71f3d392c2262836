// docker-compose.yml cannot be run where this project is tested. So it is read: the compose specification's own schema,
// the rules below, and for each rule a broken copy that it must refuse.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import test from "node:test";
import Ajv from "ajv";
import { parse } from "yaml";

const file = readFileSync(process.env.TIDEMARK_COMPOSE, "utf8");
const dockerfile = readFileSync(join(dirname(process.env.TIDEMARK_COMPOSE), "deploy/Dockerfile"), "utf8");
const dclint = dirname(createRequire(import.meta.url).resolve("dclint/package.json"));
const schema = JSON.parse(readFileSync(join(dclint, "schemas/compose.schema.json"), "utf8"));
const fits = new Ajv({ strict: false, allErrors: true, validateFormats: false, validateSchema: false }).compile(schema);

/** Everything that is wrong with a compose file, as sentences. */
function faults(text) {
  const compose = parse(text);
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
      else if (!existsSync(join(dirname(process.env.TIDEMARK_COMPOSE), from))) found.push(`${name}: ${from} is not there`);
    }
    for (const [needed, how] of Object.entries(service.depends_on ?? {})) {
      if (!compose.services[needed]) found.push(`${name}: depends on ${needed}, which is not there`);
      else if (how.condition !== "service_healthy") found.push(`${name}: does not wait until ${needed} is healthy`);
    }
    // The servers that the program is told of are services here, and it waits for them.
    for (const [, host] of (service.command ?? "").matchAll(/(?:^| |\/\/)([a-z]+):\d+/g)) {
      if (!service.depends_on?.[host]) found.push(`${name}: is told of ${host}, and does not wait for it`);
    }
  }
  for (const volume of volumes) if (!(volume in compose.volumes)) found.push(`the volume ${volume} is not declared`);
  for (const volume in compose.volumes) if (!volumes.has(volume)) found.push(`the volume ${volume} is not used`);
  if (!/--maxmemory-policy noeviction/.test(compose.services.redis?.command)) found.push("redis: may evict what it must keep");
  const published = compose.services.tidemark?.ports?.[0]?.split(":")[2];
  if (!compose.services.tidemark?.command.includes(`--listen 0.0.0.0:${published}`)) found.push("tidemark: listens where nothing is published");
  return found;
}

test("the file is as the compose specification and our rules want it", () => {
  assert.deepEqual(faults(file), []);
});

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
];
for (const [what, instead, fault] of broken) {
  test(`refused: ${JSON.stringify(instead)} instead of ${JSON.stringify(what)}`, () => {
    assert.ok(file.includes(what), "the file has nothing to break here any more");
    const found = faults(file.replace(what, instead));
    assert.ok(found.some((line) => fault.test(line)), `found only ${JSON.stringify(found)}`);
  });
}

test("the Dockerfile's health check asks the port that is published", () => {
  const { ports } = parse(file).services.tidemark;
  const asked = dockerfile.match(/\/dev\/tcp\/127\.0\.0\.1\/(\d+)/)?.[1];
  assert.equal(asked, ports[0].split(":")[2]);
});

const program = process.env.TIDEMARK_BIN;
test("the program takes the flags that it is given", { skip: program ? false : "TIDEMARK_BIN is not set" }, () => {
  const [command, ...words] = parse(file).services.tidemark.command.split(" ");
  const help = execFileSync(program, [command, "--help"], { encoding: "utf8" });
  for (const flag of words.filter((word) => word.startsWith("--"))) assert.match(help, new RegExp(`${flag}\\b`));
});
