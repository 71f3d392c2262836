// A `tidemark up` on a directory and a port of its own, with a key, behind a door that can be shut.
import { execFile, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const READY_DEADLINE = 120_000;
const STOP_DEADLINE = 60_000;

export async function until(what, isSo, deadline = 20_000) {
  for (const end = Date.now() + deadline; ;) {
    const value = await isSo();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${deadline / 1000} s: ${what}`);
    await new Promise((go) => setTimeout(go, 50));
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((go) => server.listen(0, "127.0.0.1", go));
  const { port } = server.address();
  await new Promise((go) => server.close(go));
  return port;
}

export class Site {
  /** Starts; `words` are further ones for the program. */
  static async start({ config = "", keyed = false, words = [] } = {}) {
    const site = new Site();
    site.directory = mkdtempSync(join(tmpdir(), "tidemark-dashboard-"));
    site.key = null;
    if (keyed) {
      // The key on stdout, the lines that let it in on stderr.
      const said = join(site.directory, "key");
      const out = execFileSync(process.env.TIDEMARK_BIN, ["key", "dashboard", "--scopes", "read,ingest,admin"], {
        stdio: ["ignore", "pipe", openSync(said, "w")],
      });
      site.key = out.toString().trim();
      const lines = readFileSync(said, "utf8");
      config += `\n${lines.slice(lines.indexOf("[[key]]"))}`;
    }
    writeFileSync(join(site.directory, "tidemark.toml"), config);
    site.port = await freePort();
    const log = openSync(join(site.directory, "log"), "a");
    const options = [
      "up",
      "--config",
      join(site.directory, "tidemark.toml"),
      "--data",
      join(site.directory, "data"),
      "--listen",
      `127.0.0.1:${site.port}`,
    ];
    site.child = spawn(process.env.TIDEMARK_BIN, [...options, ...words], { stdio: ["ignore", log, log] });
    site.ended = new Promise((go) => site.child.on("exit", go));
    site.url = `http://127.0.0.1:${site.port}`;
    await until(
      "the server is ready",
      async () => {
        if (site.child.exitCode !== null) throw new Error(`the server has ended:\n${readFileSync(join(site.directory, "log"), "utf8")}`);
        return (await fetch(`${site.url}/readyz`).catch(() => null))?.ok;
      },
      READY_DEADLINE,
    );
    site.door = await Door.open(site.port);
    return site;
  }

  headers() {
    return this.key ? { authorization: `Bearer ${this.key}` } : {};
  }

  async get(path) {
    const response = await fetch(this.url + path, { headers: this.headers() });
    if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
    return response.json();
  }

  /** Sends lines, and gives the position behind them. */
  async send(lines) {
    const text = lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n");
    const headers = { ...this.headers(), "content-type": "application/x-ndjson" };
    const response = await fetch(`${this.url}/v1/events`, { method: "POST", headers, body: text });
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  }

  /** Writes lines into the topic as they are, past ingest, which would refuse what is no event. */
  async publish(lines) {
    const file = join(this.directory, "lines.ndjson");
    writeFileSync(file, `${lines.join("\n")}\n`);
    const words = ["replay", "publish", "--from-file", file, "--into", "events", "--data", join(this.directory, "data")];
    await promisify(execFile)(process.env.TIDEMARK_BIN, words);
  }

  async steer(layer, action) {
    const response = await fetch(`${this.url}/v1/layers/${layer}/${action}`, { method: "POST", headers: this.headers() });
    if (!response.ok) throw new Error(await response.text());
  }

  async stop() {
    this.door.shut();
    this.child.kill("SIGTERM");
    const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_DEADLINE);
    await this.ended;
    clearTimeout(timer);
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Passes connections on, until it is shut: then all are cut, and new ones refused. */
class Door {
  static async open(port) {
    const door = new Door();
    door.port = port;
    door.sockets = new Set();
    await door.reopen();
    return door;
  }

  async reopen() {
    this.server = createServer((client) => {
      const server = connect(this.port, "127.0.0.1");
      for (const socket of [client, server]) {
        this.sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => (this.sockets.delete(socket), client.destroy(), server.destroy()));
      }
      client.pipe(server);
      server.pipe(client);
    });
    await new Promise((go) => this.server.listen(this.at ?? 0, "127.0.0.1", go));
    this.at = this.server.address().port;
    this.url = `http://127.0.0.1:${this.at}`;
  }

  shut() {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }
}
