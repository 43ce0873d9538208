#!/bin/bash
# A training, or a job of evaluations, on all hosts of a Cloud TPU slice, as one cluster:
#   tpu_pod.sh [--dry-run] NAME ZONE setup                      copies this checkout to every host and installs it
#   tpu_pod.sh [--dry-run] NAME ZONE train --config ... --workdir ...
#   tpu_pod.sh [--dry-run] NAME ZONE job --job ... --output ...
# Data, work directories and outputs lie on a disk that all hosts see under the same path, such as a Filestore share.
# Where a host is lost the others end within a minute, and the same command goes on. --dry-run prints what would be run.
set -eu
dry=
[ "${1:-}" = --dry-run ] && { dry=1; shift; }
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=$1 zone=$2 task=$3
shift 3
checkout=$(cd "$(dirname "$0")/../.." && pwd)

run() {
    if [ -n "$dry" ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

# Runs a command on every host, each with its own part of the slice: JAX finds the others by the slice's metadata.
on_all_hosts() {
    run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

arguments=
for argument in "$@"; do
    arguments+=" $(printf '%q' "$argument")"
done
case $task in
    setup)
        on_all_hosts 'rm -rf diffpose_jax diffpose' # a copy into a folder that is there would lie inside it
        run gcloud compute tpus tpu-vm scp --recurse "$checkout" "$name:diffpose_jax" --zone="$zone" --worker=all
        on_all_hosts 'python3 -m venv diffpose && diffpose/bin/pip install -q "./diffpose_jax[tpu]"'
        ;;
    train) on_all_hosts "diffpose/bin/diffpose train$arguments --config.training.distributed=true" ;;
    job) on_all_hosts "diffpose/bin/diffpose evaluate --distributed$arguments" ;;
    *) echo "expected setup, train or job, found $task" >&2 && exit 2 ;;
esac
