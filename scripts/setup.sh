#!/usr/bin/env bash
# Installs what a build and `tidemark up` need: distribution packages, the Kafka jars, the ClickHouse engine, the dashboard.
# Idempotent: says nothing and changes nothing when all is there. Versions are pinned here, in embedded/engines/pom.xml and
# in web/package-lock.json.
#   scripts/setup.sh              all of it; the engines go to engines/ of this checkout, or to TIDEMARK_ENGINES
#   scripts/setup.sh packages | engines | dashboard      one part; the other two need the packages
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
ENGINES=${TIDEMARK_ENGINES:-$ROOT/engines}
POM=$ROOT/embedded/engines/pom.xml

CHDB_PACKAGE=@chdb/lib-linux-x64-gnu
CHDB_VERSION=26.7.3-stable.1
CHDB_SHA256=36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What is missing, by what it is for:
#   cc, make, headers of zlib, OpenSSL and curl, pkg-config      librdkafka is built from source by cargo
#   java                     runs Kafka
#   mvn, npm                 fetch Kafka's jars and the engine's library; not needed afterwards
#   node, npm                build the dashboard, which the program embeds (scripts/dashboard.sh); any Node from 18 on does
packages() {
  local missing=()
  command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || missing+=(build-essential)
  [ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
  [ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
  [ -e "/usr/include/$(uname -m)-linux-gnu/curl/curl.h" ] || [ -e /usr/include/curl/curl.h ] || missing+=(libcurl4-openssl-dev)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
  if ! kafka_is_there; then command -v mvn >/dev/null || missing+=(maven); fi
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "these are missing, install them by your distribution's means: ${missing[*]}"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "run as root, or install first: ${missing[*]}"
    sudo=(sudo)
  fi
  say "installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The stamp holds what the directory was made from, so that a changed version brings new jars and a broken run is repeated.
pom_sum() { sha256sum "$POM" | cut -d' ' -f1; }
kafka_is_there() { [ "$(cat "$ENGINES/kafka/from" 2>/dev/null)" = "$(pom_sum)" ]; }
chdb_is_there() { [ "$(cat "$ENGINES/chdb/from" 2>/dev/null)" = "$CHDB_SHA256" ] && [ -f "$ENGINES/chdb/libchdb.so" ]; }

kafka() {
  kafka_is_there && return
  say "fetching the Kafka jars (55 MB)"
  local new=$ENGINES/kafka.new
  rm -rf "$new"; mkdir -p "$new/lib"
  mvn -q -B -f "$POM" dependency:copy-dependencies -DoutputDirectory="$new/lib" -DincludeScope=runtime | sed "s/\x1b\[[0-9;]*m//g; /^$/d" \
    || fail "Maven could not fetch the Kafka jars; check the network or the mirror in ~/.m2/settings.xml, then run again"
  compgen -G "$new/lib/kafka_2.13-*.jar" >/dev/null || fail "Maven brought no Kafka jar into $new/lib"
  pom_sum > "$new/from"
  rm -rf "$ENGINES/kafka"; mv "$new" "$ENGINES/kafka"
}

# With its classes in an archive Kafka starts in half the time: 1.1 s instead of 1.9. An archive that does not belong to the jars or
# to the Java at hand is ignored by Java.
classes_of() { stat -L -c '%n %s %Y' "$(command -v java)" && pom_sum; }
classes_are_there() { [ "$(cat "$ENGINES/kafka/classes.from" 2>/dev/null)" = "$(classes_of)" ]; }
classes() {
  classes_are_there && return
  say "archiving the classes of Kafka"
  local new=$ENGINES/kafka/classes.new
  rm -f "$new"
  if TIDEMARK_TEST_KAFKA= "$ROOT/scripts/kafka-for-tests.sh" --archive "$new" && [ -s "$new" ]; then
    mv -f "$new" "$ENGINES/kafka/classes.jsa"
  else
    say "that did not work; Kafka starts more slowly without them"
  fi
  classes_of > "$ENGINES/kafka/classes.from"
}

chdb() {
  chdb_is_there && return
  [ "$(uname -sm)" = "Linux x86_64" ] || fail "the embedded ClickHouse engine comes for Linux on x86_64 only; use a ClickHouse server instead"
  say "fetching the ClickHouse engine $CHDB_VERSION (178 MB)"
  local new=$ENGINES/chdb.new
  rm -rf "$new"; mkdir -p "$new"
  (cd "$new" && npm pack --silent "$CHDB_PACKAGE@$CHDB_VERSION" >/dev/null) \
    || fail "npm could not fetch $CHDB_PACKAGE@$CHDB_VERSION; check the network or npm's registry setting, then run again"
  tar -xzf "$new"/*.tgz -C "$new" --strip-components=1 package/libchdb.so
  rm "$new"/*.tgz
  local got
  got=$(sha256sum "$new/libchdb.so" | cut -d' ' -f1)
  [ "$got" = "$CHDB_SHA256" ] || fail "libchdb.so has sha256 $got, expected $CHDB_SHA256: not installed"
  chmod 755 "$new/libchdb.so"
  echo "$CHDB_SHA256" > "$new/from"
  rm -rf "$ENGINES/chdb"; mv "$new" "$ENGINES/chdb"
}

engines() {
  mkdir -p "$ENGINES"
  kafka
  classes
  chdb
}
dashboard() { "$ROOT/scripts/dashboard.sh"; }

case ${1:-all} in
  all) packages; engines; dashboard ;;
  packages | engines | dashboard) "$1" ;;
  *) fail "unknown part $1; use packages, engines or dashboard" ;;
esac
