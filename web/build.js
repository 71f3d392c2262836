// Bundles the page into dist/: index.html, dashboard.js, dashboard.css and icon.svg, each also packed by gzip.
// Equal sources give equal bytes: there are no names or times of this build in them.
import { build } from "esbuild";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, gzipSync } from "node:zlib";

/** What the page may weigh, packed, all its parts together. */
const MOST_BYTES = 250 * 1024;

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");
await build({
  entryPoints: [
    { in: "src/main.ts", out: "dashboard" },
    { in: "src/style.css", out: "dashboard" },
  ],
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  banner: { js: "/* With uPlot, (c) Leon Sorokin, MIT License. */", css: "/* With uPlot, (c) Leon Sorokin, MIT License. */" },
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) writeFileSync(`dist/${name}`, readFileSync(`src/${name}`));
let total = 0;
for (const name of ["index.html", "dashboard.js", "dashboard.css", "icon.svg"]) {
  const packed = gzipSync(readFileSync(`dist/${name}`), { level: constants.Z_BEST_COMPRESSION });
  writeFileSync(`dist/${name}.gz`, packed);
  total += packed.length;
}
if (total > MOST_BYTES) throw new Error(`the page weighs ${total} bytes packed, and may weigh ${MOST_BYTES}`);
console.log(`the dashboard is built: ${(total / 1024).toFixed(1)} KB packed`);
