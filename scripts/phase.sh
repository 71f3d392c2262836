# shellcheck shell=bash
# Sourced by check.sh and test.sh: `phase NAME COMMAND…` says what runs and how long it took; a failure ends the script with the name.
PHASE=start
PHASE_FROM=$SECONDS
trap '[ $? -eq 0 ] || printf "==> %s: FAILED after %d s\n" "$PHASE" $((SECONDS - PHASE_FROM)) >&2' EXIT

phase() {
  PHASE=$1 PHASE_FROM=$SECONDS
  shift
  printf '\n==> %s\n' "$PHASE"
  "$@"
  printf '==> %s: %d s\n' "$PHASE" $((SECONDS - PHASE_FROM))
}
