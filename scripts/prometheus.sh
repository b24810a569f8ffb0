#!/usr/bin/env bash
# A Prometheus server for the tests, from Debian's package. Needs apt, but no root.
#   scripts/prometheus.sh install          put the server into .venv/prometheus, unless it is there
#   scripts/prometheus.sh start DIR PORT   serve what DIR/samples.om (OpenMetrics) holds, with DIR/prometheus.yml if there is one
#   scripts/prometheus.sh stop DIR
# PRESURGE_PROMETHEUS names another place for the programs.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$HERE/scripts/debian.sh"
HOME_OF="${PRESURGE_PROMETHEUS:-$HERE/.venv/prometheus}"

install() {
    [ -x "$HOME_OF/usr/bin/prometheus" ] || unpack "$HOME_OF" prometheus
}

start() {
    local dir="$1" address="127.0.0.1:$2"
    if [ ! -d "$dir/data" ]; then
        "$HOME_OF/usr/bin/promtool" tsdb create-blocks-from openmetrics "$dir/samples.om" "$dir/data" > "$dir/blocks.log"
    fi
    [ -f "$dir/prometheus.yml" ] || echo "global: {}" > "$dir/prometheus.yml"
    "$HOME_OF/usr/bin/prometheus" --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
        --storage.tsdb.retention.time=100y --web.listen-address="$address" > "$dir/server.log" 2>&1 &
    echo $! > "$dir/pid"
    for _ in $(seq 100); do
        grep -q "ready to receive web requests" "$dir/server.log" && return
        kill -0 "$(cat "$dir/pid")" 2> /dev/null || break
        sleep 0.1
    done
    cat "$dir/server.log" >&2
    echo "the server at $address did not start" >&2
    exit 1
}

stop() {
    kill "$(cat "$1/pid")"
    rm "$1/pid"
}

case "${1:-}" in
    install) install ;;
    start) start "$2" "$3" ;;
    stop) stop "$2" ;;
    *) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
