#!/usr/bin/env bash
# Builds the dashboard from web/ into web/dist, which cargo embeds: packages by the lock file, then one bundle.
# Says nothing and does nothing where the result is newer than all that it is made of.
#   scripts/dashboard.sh             builds what is missing or old
#   scripts/dashboard.sh --check     and checks its format, its types and what it decides
set -euo pipefail
cd "$(dirname "$0")/../web"

for tool in node npm; do
  command -v $tool >/dev/null || { echo "dashboard: $tool is missing; scripts/setup.sh installs it" >&2; exit 1; }
done

# What has been installed: by which lock file, and whether with what only the check needs.
packages() {
  local wanted="$(sha256sum < package-lock.json) $1"
  case $(cat node_modules/from 2>/dev/null) in "$wanted" | "$(sha256sum < package-lock.json) dev") return ;; esac
  echo "fetching the npm packages of the dashboard"
  npm ci --silent --ignore-scripts --no-audit --no-fund $([ "$1" = dev ] || echo --omit=dev)
  echo "$wanted" > node_modules/from
}

if [ "${1:-}" = --check ]; then
  packages dev
  node_modules/.bin/prettier --check --log-level warn "src/**/*.ts" src/style.css "test/*.js" "*.js" "../tests/dashboard/*.js" "../tests/node/*.js" --config package.json
  node_modules/.bin/tsc
  node test.js >/dev/null || { node test.js; exit 1; }
fi
if [ ! -e dist/icon.svg.gz ] || [ -n "$(find src build.js package.json package-lock.json -newer dist/icon.svg.gz -print -quit)" ]; then
  packages only
  node build.js
fi
