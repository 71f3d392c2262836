#!/usr/bin/env bash
# Makes the Python that tests run, with the packages of tests/python/requirements.txt, and says where it is. Once for each list of packages.
set -euo pipefail
cd "$(dirname "$0")/.."

LIST=tests/python/requirements.txt
PLACE=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python

if ! cmp -s "$LIST" "$PLACE/from"; then
  scripts/install-for-tests.sh python3 >&2
  # Debian has what makes environments in a package of its own.
  python3 -c 'import ensurepip' 2>/dev/null || scripts/install-for-tests.sh no-ensurepip=python3-venv >&2
  echo "fetching the Python packages of $LIST for tests" >&2
  rm -rf "$PLACE"
  python3 -m venv "$PLACE"
  "$PLACE/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$LIST" >&2
  cp "$LIST" "$PLACE/from"
fi
echo "$PLACE/bin/python"
