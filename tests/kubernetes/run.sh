#!/usr/bin/env bash
# Checks deploy/kubernetes: every overlay is built by kustomize, each document fits the schema of its kind, and what
# schemas cannot say is asserted. No cluster is needed, but node and go.
set -euo pipefail
cd "$(dirname "$0")/../.."

KUSTOMIZE=v5.7.1
WORK=$(scripts/node-for-tests.sh tests/kubernetes)

# Once for each version.
if [ ! -x "$WORK/$KUSTOMIZE/kustomize" ]; then
  command -v go >/dev/null || { echo "skipped: kustomize is built by go, which is not installed"; exit; }
  echo "building kustomize $KUSTOMIZE"
  GOBIN=$WORK/$KUSTOMIZE go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE" 2>/dev/null
fi
for overlay in small large; do
  "$WORK/$KUSTOMIZE/kustomize" build "deploy/kubernetes/overlays/$overlay" > "$WORK/$overlay.yaml"
done
TIDEMARK_ROOT=$PWD node --test --test-reporter=spec "$WORK/kubernetes.test.js"
