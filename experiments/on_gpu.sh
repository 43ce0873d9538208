#!/bin/sh
# What a machine with an accelerator shows in under eight minutes, without a network:
# `sh experiments/on_gpu.sh [OUTPUT] [--quick]`. See experiments/on_gpu.py; OUTPUT is runs/on_gpu if not given.
set -e
cd "$(dirname "$0")/.."
case "${1:-}" in
    ""|-*) output=runs/on_gpu ;;
    *) output=$1; shift ;;
esac
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "${PYTHON:-python3}" experiments/on_gpu.py --output "$output" "$@"
