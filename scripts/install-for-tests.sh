#!/usr/bin/env bash
# Installs the distribution's packages that tests need and a build does not.
#   scripts/install-for-tests.sh COMMAND[=PACKAGE]…
set -euo pipefail

missing=()
for wanted in "$@"; do
  command -v "${wanted%%=*}" >/dev/null || missing+=("${wanted##*=}")
done
[ ${#missing[@]} -eq 0 ] && exit
echo "installing ${missing[*]} for tests" >&2
[ "$(id -u)" -eq 0 ] && sudo=() || sudo=(sudo)
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
