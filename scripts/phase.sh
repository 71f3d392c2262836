# shellcheck shell=bash
# Sourced by check.sh and test.sh. A phase says what runs and how long it took; a failure ends the script with the phase's name.
#   phase NAME COMMAND…           runs it
#   in_background NAME COMMAND…   starts it; its output is kept
#   await NAME                    waits for it, and prints its output
PHASE=start
PHASE_FROM=$SECONDS
BACKGROUND=$(mktemp -d)
declare -A JOBS=()
trap 'ended $?' EXIT

ended() {
  [ "$1" -eq 0 ] || printf '==> %s: FAILED after %d s\n' "$PHASE" $((SECONDS - PHASE_FROM)) >&2
  # What was started and not awaited may say why, too.
  for name in "${!JOBS[@]}"; do
    kill "${JOBS[$name]}" 2>/dev/null || true
    printf '\n==> %s, in the background, as far as it came\n' "$name"
    cat "$BACKGROUND/$name"
  done
  rm -rf "$BACKGROUND"
}

phase() {
  PHASE=$1 PHASE_FROM=$SECONDS
  shift
  printf '\n==> %s\n' "$PHASE"
  "$@"
  printf '==> %s: %d s\n' "$PHASE" $((SECONDS - PHASE_FROM))
}

in_background() {
  local name=$1
  shift
  (
    trap - EXIT
    from=$SECONDS
    "$@"
    printf '==> %s: %d s, in the background\n' "$name" $((SECONDS - from))
  ) >"$BACKGROUND/$name" 2>&1 &
  JOBS[$name]=$!
}

await() {
  PHASE=$1 PHASE_FROM=$SECONDS
  local status=0
  wait "${JOBS[$PHASE]}" || status=$?
  unset "JOBS[$PHASE]"
  printf '\n==> %s\n' "$PHASE"
  cat "$BACKGROUND/$PHASE"
  return $status
}
