#!/bin/sh
# Builds the peers of bench/ with Maven, and measures the speed layer beside them (tidemark bench compare).
#   scripts/bench-compare.sh [words for the program]      needs a JDK 17 and Maven; the peers take about 300 MB
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/peers"
peers=$(cd "$target/peers" && pwd)
for tool in javac mvn; do
    command -v $tool >/dev/null || { echo "$tool is missing: install a JDK 17 and Maven" >&2; exit 1; }
done
for peer in kafka-streams flink; do
    mvn -q -B -f bench/$peer/pom.xml -Dout="$peers/$peer" compile \
        dependency:copy-dependencies -DoutputDirectory="$peers/$peer/lib" -DincludeScope=runtime
done
exec "$target/dist/tidemark" bench compare --peers "$peers" "$@"
