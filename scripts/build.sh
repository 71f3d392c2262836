#!/usr/bin/env bash
# Compiles the program, and says how long that takes if there is none yet.
#   scripts/build.sh release     target/release/tidemark: what `make up` runs
#   scripts/build.sh dist        target/dist/tidemark: optimized across crates, as it is packaged and measured
set -euo pipefail
cd "$(dirname "$0")/.."

PROFILE=$1
case $PROFILE in
  release) USUALLY="5 to 6 minutes on two cores" ;;
  dist) USUALLY="7 minutes on two cores" ;;
  *) echo "build: unknown profile $PROFILE; use release or dist" >&2; exit 2 ;;
esac
if [ ! -x "${CARGO_TARGET_DIR:-target}/$PROFILE/tidemark" ]; then
  echo "build: compiling tidemark and the crates it needs; this usually takes $USUALLY, once"
fi
cargo build --profile "$PROFILE" --locked -p tidemark
