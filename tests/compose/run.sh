#!/usr/bin/env bash
# Checks the compose files: by the compose specification's schema, and by what the schema cannot say. No Docker is needed.
# TIDEMARK_BIN, if set, must take the flags that the files give it.
set -euo pipefail
cd "$(dirname "$0")/../.."

WORK=$(scripts/node-for-tests.sh tests/compose)
TIDEMARK_ROOT=$PWD node --test --test-reporter=spec "$WORK/compose.test.js"
