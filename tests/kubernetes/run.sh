#!/usr/bin/env bash
# Checks deploy/kubernetes: every overlay is built by kustomize, each document fits the schema of its kind, and what
# schemas cannot say is asserted. No cluster is needed, but node and go.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
WORK=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")/kubernetes
KUSTOMIZE=v5.7.1

# The few packages (32 MB) come once for each lock file, kustomize once for each version.
if ! cmp -s "$HERE/package-lock.json" "$WORK/from"; then
  mkdir -p "$WORK"
  cp "$HERE/package.json" "$HERE/package-lock.json" "$WORK/"
  (cd "$WORK" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  cp "$HERE/package-lock.json" "$WORK/from"
fi
if [ ! -x "$WORK/$KUSTOMIZE/kustomize" ]; then
  command -v go >/dev/null || { echo "skipped: kustomize is built by go, which is not installed"; exit; }
  GOBIN=$WORK/$KUSTOMIZE go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE" 2>/dev/null
fi
for overlay in small large; do
  "$WORK/$KUSTOMIZE/kustomize" build "$ROOT/deploy/kubernetes/overlays/$overlay" > "$WORK/$overlay.yaml"
done
# Node looks for packages above the file that imports them.
cp "$HERE/kubernetes.test.js" "$WORK/"
TIDEMARK_ROOT=$ROOT node --test --test-reporter=spec "$WORK/kubernetes.test.js"
