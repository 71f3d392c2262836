#!/usr/bin/env bash
# What CI wants of the code before it runs anything: the dashboard's types, format, dependency policy, lints, documents. No server
# is needed.
# Compiles under the profile `ci`, as the tests do, so that librdkafka and the like are compiled once for both.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/phase.sh

CARGO_DENY_VERSION=0.20.2
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

# --deny=required (the default): installed if missing, and must run.
# --deny=wanted: installed if that can be done, else skipped. --deny=if-installed: never installed (4 minutes of CPU, once a machine).
DENY=${1:---deny=required}
case $DENY in --deny=required | --deny=wanted | --deny=if-installed) ;; *) echo "check: unknown option $DENY" >&2; exit 2 ;; esac

deny_is_there() { [ "$(cargo deny --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ]; }
install_deny() {
  [ "$DENY" != --deny=if-installed ] || return 1
  echo "installing cargo-deny $CARGO_DENY_VERSION, once for this machine"
  cargo install --quiet --locked --force cargo-deny --version "$CARGO_DENY_VERSION"
}
deny() {
  if ! deny_is_there && ! install_deny; then
    [ "$DENY" != --deny=required ] || { echo "cargo-deny $CARGO_DENY_VERSION could not be installed" >&2; return 1; }
    echo "skipped: cargo-deny $CARGO_DENY_VERSION is not installed; make check installs it"
    return
  fi
  cargo deny --locked check --hide-inclusion-graph licenses bans sources
}
# Changes that break the code on purpose (tests/sim/mutants.sh) must still fit it.
mutations_fit() {
  for mutation in tests/sim/mutations/*.patch; do git apply --check "$mutation"; done
}
document() {
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --profile ci --locked
}

phase "dashboard" scripts/dashboard.sh --check
phase "format" cargo fmt --all --check
phase "mutations of the simulator" mutations_fit
phase "dependency policy" deny
phase "lints" cargo clippy --workspace --all-targets --profile ci --locked -- -D warnings
phase "documents" document
