// Runs test/ on the sources: bundled first, for not every Node reads TypeScript.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";

await build({
  entryPoints: ["test/pure.test.js"],
  outfile: "node_modules/.tests/pure.test.mjs",
  bundle: true,
  platform: "node",
  format: "esm",
  logLevel: "warning",
});
process.exit(spawnSync(process.execPath, ["--test", "node_modules/.tests/pure.test.mjs"], { stdio: "inherit" }).status ?? 1);
