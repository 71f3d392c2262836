#!/usr/bin/env bash
# One real Kafka node, for as long as a command runs:
#   scripts/kafka-for-tests.sh COMMAND…   runs it with TIDEMARK_TEST_KAFKA=HOST:PORT, and ends as it ends
#   scripts/kafka-for-tests.sh            prints HOST:PORT and keeps the node until it is interrupted
#   scripts/kafka-for-tests.sh --archive FILE   starts a node, and writes the classes that it needs into an archive (see setup.sh)
# The node's data is in a directory of its own under TMPDIR, and goes with it. If the variable is set already, that broker is used.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
ENGINES=${TIDEMARK_ENGINES:-$ROOT/engines}
START_LIMIT_S=90
ATTEMPTS=3

fail() { printf 'kafka-for-tests: %s\n' "$*" >&2; exit 1; }

if [ -n "${TIDEMARK_TEST_KAFKA:-}" ]; then
  [ $# -gt 0 ] || fail "TIDEMARK_TEST_KAFKA is set: $TIDEMARK_TEST_KAFKA"
  exec "$@"
fi
compgen -G "$ENGINES/kafka/lib/kafka_2.13-*.jar" >/dev/null || fail "no Kafka in $ENGINES; run make setup"

CLASSES=-XX:SharedArchiveFile=$ENGINES/kafka/classes.jsa
STOP=KILL # Nobody reads its data again: no clean stop.
if [ "${1:-}" = --archive ]; then
  CLASSES=-XX:ArchiveClassesAtExit=$2
  STOP=TERM # The archive is written at the end.
  set -- true
fi

DIR=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-kafka.XXXXXX")
NODE=
stop() {
  [ -z "$NODE" ] || { kill -"$STOP" "$NODE" && wait "$NODE"; } 2>/dev/null || true
  rm -rf "$DIR"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the range that the system gives to clients; another process may take it before Kafka does, hence the attempts.
free_port() {
  local port
  while port=$((RANDOM % 10000 + 20000)); listens "$port"; do :; done
  echo "$port"
}

# Kafka's ApiVersions request, version 0: length, key 18, version 0, correlation 1, no client id. Answered with no error once the node serves.
answers() {
  local bytes
  bytes=$(timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0"
    printf "\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff" >&3; head -c 10 <&3 | od -An -tx1 -j4' "$1" 2>/dev/null) || return 1
  [ "$bytes" = " 00 00 00 01 00 00" ]
}

# The same flags as embedded/src/broker.rs. The node dies with this script, also if that is killed.
java_node() {
  exec setpriv --pdeathsig KILL java -Xms64m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "$CLASSES" -Djava.awt.headless=true \
    -Dtidemark.logs="$DIR" -Dlog4j2.configurationFile="$ROOT/embedded/engines/log4j2.properties" -cp "$ENGINES/kafka/lib/*" "$@"
}

start() {
  PORT=$(free_port)
  local controller
  while controller=$(free_port); [ "$controller" = "$PORT" ]; do :; done
  rm -rf "$DIR/data"
  cat > "$DIR/node.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$DIR/data
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
log.segment.bytes=134217728
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.retention.hours=-1
log.message.timestamp.type=CreateTime
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
END
  (java_node kafka.tools.StorageTool format --cluster-id VGlkZW1hcmstdGVzdHMtMQ --config "$DIR/node.properties") >"$DIR/out" 2>&1 || return 1
  (java_node kafka.Kafka "$DIR/node.properties") >>"$DIR/out" 2>&1 </dev/null &
  NODE=$!
  local deadline=$((SECONDS + START_LIMIT_S))
  while ! answers "$PORT"; do
    kill -0 "$NODE" 2>/dev/null || { NODE=; return 1; }
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.2
  done
}

for attempt in $(seq $ATTEMPTS); do
  start && break
  [ -z "$NODE" ] || { kill -KILL "$NODE"; wait "$NODE"; } 2>/dev/null || true
  NODE=
  [ "$attempt" -lt $ATTEMPTS ] || { tail -20 "$DIR/out" >&2; fail "Kafka did not start; the end of its output is above"; }
done

export TIDEMARK_TEST_KAFKA=127.0.0.1:$PORT
if [ $# -eq 0 ]; then
  echo "$TIDEMARK_TEST_KAFKA"
  wait "$NODE"
  exit
fi
status=0
"$@" || status=$?
exit "$status"
