#!/usr/bin/env bash
# Checks deploy/prometheus: the configuration, the rules, and by rules.test.yml that each alert comes when it should and
# not when it should not. That the metrics exist is checked by tests/it, on a live server.
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/install-for-tests.sh promtool=prometheus
cd deploy/prometheus
promtool check config --syntax-only prometheus.yml
promtool check config --syntax-only scaled.yml
promtool check rules rules.yml
promtool test rules rules.test.yml
