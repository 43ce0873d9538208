#!/bin/sh
# Workers of one job as processes of this machine: local.sh WORKERS JOB OUTPUT [FLAGS...]
# All share OUTPUT; the same command goes on where workers were killed. Exits with the worst of the workers' codes.
set -u
[ $# -ge 3 ] || { echo "usage: $0 WORKERS JOB OUTPUT [FLAGS...]" >&2; exit 2; }
workers=$1 job=$2 output=$3
shift 3
mkdir -p "$output/logs"
pids= code=0
trap 'kill $pids 2>/dev/null; wait; exit 143' INT TERM
i=0
while [ "$i" -lt "$workers" ]; do
    "${PYTHON:-python}" -m diffpose_jax evaluate --job "$job" --output "$output" "$@" >"$output/logs/worker-$i.log" 2>&1 &
    pids="$pids $!"
    i=$((i + 1))
done
for pid in $pids; do
    wait "$pid" || { status=$?; [ "$status" -gt "$code" ] && code=$status; }
done
tail -n 3 "$output/logs/worker-0.log"
exit "$code"
