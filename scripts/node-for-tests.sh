#!/usr/bin/env bash
# Prepares a directory of tests that run on Node.js, and prints where it is:
#   scripts/node-for-tests.sh tests/NAME
# The scripts are copied to TARGET/NAME, next to the packages of package-lock.json: Node looks for packages above the file
# that imports them. The packages are fetched once for each lock file.
set -euo pipefail

FROM=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
WORK=$(realpath -m "${CARGO_TARGET_DIR:-target}")/$(basename "$FROM")

if ! cmp -s "$FROM/package-lock.json" "$WORK/from"; then
  echo "fetching the npm packages of $(basename "$FROM") for tests" >&2
  mkdir -p "$WORK"
  cp "$FROM/package.json" "$FROM/package-lock.json" "$WORK/"
  (cd "$WORK" && npm ci --silent --ignore-scripts --no-audit --no-fund) >&2
  cp "$FROM/package-lock.json" "$WORK/from"
fi
cp "$FROM"/*.js "$WORK/"
echo "$WORK"
