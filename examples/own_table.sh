#!/usr/bin/env bash
# Your own table in long form: two hosts in one file, a count and a gauge, a few missing minutes.
# Run it with: bash examples/own_table.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# An invented log: local time with its zone, one row per host and minute.
awk 'BEGIN {
    srand(1)
    print "time,host,requests,cpu"
    for (minute = 0; minute < 2000; minute++) {
        if (minute % 400 == 7) continue
        for (host = 1; host <= 2; host++) {
            load = int(20 * host + 8 * sin(minute / 230) + 6 * rand())
            printf "2026-03-%02dT%02d:%02d:00+08:00,host-%d,%d,%.3f\n",
                2 + int(minute / 1440), int(minute / 60) % 24, minute % 60, host, load, load * 0.013
        }
    }
}' > load.csv

# Requests are whole numbers, so a missing minute counts as zero; cpu is a gauge, so it is missing. --kind and --fill override this.
presurge backtest load.csv --time time --item host --value requests,cpu \
    --context 60 --horizon 3 --models auto,dlinear --test-fraction 0.3

presurge train load.csv --time time --item host --value requests,cpu \
    --context 60 --horizon 3 --model auto --out run --no-plots --quiet > accuracy.txt

# The model remembers how its table was read.
presurge predict run --history load.csv --output forecast.csv
head -4 forecast.csv
