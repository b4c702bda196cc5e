#!/usr/bin/env bash
# Shows kvtier at work: builds, starts a daemon with its embedded defaults in .kvtier/demo, replays a real trace through
# gRPC with every byte verified, says how to look around, and stops the daemon.
#   DEMO_LIMIT=300 make demo    requests of the trace (default 1000: more than fits the host tier of a small machine)
#   DEMO_KEEP=1 make demo       leave the daemon running
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=${DEMO_LIMIT:-1000}
folder=.kvtier/demo
trace=bench/traces/mooncake_conv_dev.rjsonl.zst
ready_within_seconds=60

make/beat.sh "build" cargo build --release --workspace --locked --bins

rm -rf "$folder"
mkdir -p "$folder"
log=$folder/kvtierd.log

# Port 0: the daemon takes free ports and writes them to <data directory>/LISTENING.
target/release/kvtierd --create --data-directory "$folder/data" --tcp 127.0.0.1:0 --http 127.0.0.1:0 2> "$log" &
daemon=$!
stop() {
  if kill -0 "$daemon" 2> /dev/null; then
    kill -TERM "$daemon"
    wait "$daemon" || true
    echo "== kvtierd stopped"
  fi
}
trap stop EXIT

address_of() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" "$folder/data/LISTENING" 2> /dev/null; }
get() { # GET over plain HTTP without curl; prints the status code
  local host=${1%:*} port=${1##*:} path=$2 line
  exec 3<> "/dev/tcp/$host/$port" || return 1
  printf 'GET %s HTTP/1.1\r\nHost: kvtierd\r\nConnection: close\r\n\r\n' "$path" >&3
  read -r line <&3
  exec 3>&-
  set -- $line
  echo "$2"
}

deadline=$((SECONDS + ready_within_seconds))
until [[ -n $(address_of http) && $(get "$(address_of http)" /readyz 2> /dev/null) == 200 ]]; do
  if ! kill -0 "$daemon" 2> /dev/null; then
    echo "demo: kvtierd ended early; its log:" >&2
    cat "$log" >&2
    exit 1
  fi
  if ((SECONDS > deadline)); then
    echo "demo: kvtierd was not ready after $ready_within_seconds s; its log:" >&2
    cat "$log" >&2
    exit 1
  fi
  sleep 0.1
done
tcp=$(address_of tcp)
http=$(address_of http)
echo "== kvtierd serves gRPC on $tcp and HTTP on $http; data in $folder/data, log in $log"

target/release/kvtier --endpoint "http://$tcp" trace replay "$trace" --limit "$limit"

cat << TEXT

== Look around (the daemon stops when this script ends; DEMO_KEEP=1 leaves it running)
   target/release/kvtier --endpoint http://$tcp status
   target/release/kvtier --endpoint http://$tcp top
   http://$http/metrics
   $log
TEXT
echo
target/release/kvtier --endpoint "http://$tcp" status

if [[ -n ${DEMO_KEEP:-} ]]; then
  trap - EXIT
  echo "== kvtierd keeps running with process id $daemon; stop it with: kill $daemon"
fi
