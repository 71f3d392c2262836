#!/usr/bin/env bash
# The dashboard in headless chromium, against a `tidemark up` with real engines. Screenshots are kept: it says where.
#   tests/dashboard/run.sh             what CI runs, under a minute
#   tests/dashboard/run.sh --whole     and what is measured: first paint, frames
# TIDEMARK_BIN is the program; scripts/install-for-tests.sh chromium installs the browser.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
WORK=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")/dashboard
[ "${1:-}" = --whole ] && export TIDEMARK_WHOLE=1
export TIDEMARK_ENGINES=${TIDEMARK_ENGINES:-$ROOT/engines}
[ -n "${TIDEMARK_BIN:-}" ] || { echo "TIDEMARK_BIN must name the program" >&2; exit 1; }

# The packages (17 MB) come once for each lock file.
if ! cmp -s "$HERE/package-lock.json" "$WORK/from"; then
  mkdir -p "$WORK"
  cp "$HERE/package.json" "$HERE/package-lock.json" "$WORK/"
  (cd "$WORK" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  cp "$HERE/package-lock.json" "$WORK/from"
fi
# Node looks for packages above the file that imports them.
cp "$HERE"/*.js "$WORK/"
rm -rf "$WORK/screenshots"
TIDEMARK_SCREENSHOTS=$WORK/screenshots node --test --test-reporter=spec "$WORK/dashboard.test.js"
