#!/usr/bin/env bash
# The HTTP load tool wrk for benchmarks/serving.py, from Debian's packages. Needs apt, but no root.
#   scripts/wrk.sh install     put it into .venv/wrk, unless it is there
#   scripts/wrk.sh run ARGS    run it
# PRESURGE_WRK names another place for the program.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$HERE/scripts/debian.sh"
HOME_OF="${PRESURGE_WRK:-$HERE/.venv/wrk}"

install() {
    [ -x "$HOME_OF/usr/bin/wrk" ] || unpack "$HOME_OF" wrk libluajit-5.1-2 libluajit-5.1-common
}

run() {
    LD_LIBRARY_PATH="$(echo "$HOME_OF"/usr/lib/*/)" exec "$HOME_OF/usr/bin/wrk" "$@"
}

case "${1:-}" in
    install) install ;;
    run) run "${@:2}" ;;
    *) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
