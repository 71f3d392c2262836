#!/usr/bin/env bash
# Checks the compose files: by the compose specification's schema, and by what the schema cannot say. No Docker is needed.
# TIDEMARK_BIN, if set, must take the flags that the files give it.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
WORK=${CARGO_TARGET_DIR:-$HERE/../../target}/compose

# The few packages (8 MB, 3 s) come once for each lock file.
if ! cmp -s "$HERE/package-lock.json" "$WORK/from"; then
  mkdir -p "$WORK"
  cp "$HERE/package.json" "$HERE/package-lock.json" "$WORK/"
  (cd "$WORK" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  cp "$HERE/package-lock.json" "$WORK/from"
fi
# Node looks for packages above the file that imports them.
cp "$HERE/compose.test.js" "$WORK/"
TIDEMARK_ROOT=$(cd "$HERE/../.." && pwd) node --test --test-reporter=spec "$WORK/compose.test.js"
