#!/bin/sh
# Trains, calibrates and writes the released models: `sh experiments/train_pretrained.sh`.
#
# DATA: archive of the CMU motion (docs/data_sets.md); OUT: work directories; STEPS: steps before the learning rate falls;
# LAST: steps over which it falls. Every part goes on where it was stopped: on CPU run it again and again, on an
# accelerator once. Where training may not take as long as that, stop it, and the part that follows takes what there is.
set -e
DATA=${DATA:-data/cmu.npz}
OUT=${OUT:-runs/pretrained}
STEPS=${STEPS:-40000}
LAST=${LAST:-6000}

# name, config, learning rate of the second part
release() {
    long=$OUT/$1-day
    python -m diffpose_jax.train --config "$2:cmu,day" --config.data.source="$DATA" --config.training.steps="$STEPS" \
        --workdir "$long"
    python -m diffpose_jax.train --config "$2:cmu,day" --config.data.source="$DATA" --init_from="$long" \
        --config.training.decay=cosine --config.training.learning_rate="$3" --config.training.warmup_steps=200 \
        --config.training.steps="$LAST" --config.training.validate_every=1000 --workdir "$OUT/$1"
    python -m diffpose_jax.calibrate --workdir "$OUT/$1"
    python experiments/release.py --workdir "$OUT/$1" --name "$1"
}

release frame diffupose_mlp 1e-3
release sequence diff3dhpe_frames 1e-3
