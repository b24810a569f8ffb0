#!/usr/bin/env bash
# The HTTP load tool wrk for benchmarks/serving.py, from Debian's packages. Needs apt, but no root.
#   scripts/wrk.sh install     put it into .venv/wrk, unless it is there
#   scripts/wrk.sh run ARGS    run it
# PRESURGE_WRK names another place for the program.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
HOME_OF="${PRESURGE_WRK:-$HERE/.venv/wrk}"

install() {
    [ -x "$HOME_OF/usr/bin/wrk" ] && return
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    cd "$work"
    # With lists of its own, apt needs no root, and no earlier `apt-get update`.
    mkdir -p lists/partial cache/archives/partial
    local own=(-qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= -o Acquire::Retries=3)
    apt-get "${own[@]}" update
    apt-get "${own[@]}" download wrk libluajit-5.1-2 libluajit-5.1-common
    mkdir -p "$HOME_OF"
    for package in ./*.deb; do dpkg-deb -x "$package" "$HOME_OF"; done
}

run() {
    LD_LIBRARY_PATH="$(echo "$HOME_OF"/usr/lib/*/)" exec "$HOME_OF/usr/bin/wrk" "$@"
}

case "${1:-}" in
    install) install ;;
    run) run "${@:2}" ;;
    *) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
