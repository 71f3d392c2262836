#!/usr/bin/env bash
# The dashboard in headless chromium, against a `tidemark up` with real engines. Screenshots are kept: it says where.
#   tests/dashboard/run.sh             what CI runs, under a minute
#   tests/dashboard/run.sh --whole     and what is measured: first paint, frames
# TIDEMARK_BIN is the program; scripts/install-for-tests.sh chromium installs the browser.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "${1:-}" = --whole ] && export TIDEMARK_WHOLE=1
export TIDEMARK_ENGINES=${TIDEMARK_ENGINES:-$PWD/engines}
[ -n "${TIDEMARK_BIN:-}" ] || { echo "TIDEMARK_BIN must name the program" >&2; exit 1; }

WORK=$(scripts/node-for-tests.sh tests/dashboard)
rm -rf "$WORK/screenshots"
TIDEMARK_SCREENSHOTS=$WORK/screenshots node --test --test-reporter=spec "$WORK/dashboard.test.js"
