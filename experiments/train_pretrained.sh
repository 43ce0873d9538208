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
LAST=${LAST:-10000}

# name, config, share of crossover (`data.crossover`): for `frame`, with half of the weights, it cost more than it gave;
# share of examples with something hidden
release() {
    long=$OUT/$1-day
    set -- "$1" --config "$2:cmu,day" --config.data.source="$DATA" --config.data.crossover="$3" \
        --config.data.occlusion_rate="$4"
    name=$1
    shift
    python -m diffpose_jax.train "$@" --config.training.steps="$STEPS" --workdir "$long"
    python -m diffpose_jax.train "$@" --init_from="$long" --config.training.decay=cosine \
        --config.training.learning_rate=1e-3 --config.training.warmup_steps=200 --config.training.steps="$LAST" \
        --config.training.validate_every=1000 --workdir "$OUT/$name"
    python -m diffpose_jax.calibrate --workdir "$OUT/$name" --scales --detector_strength 1.4 --detector_bias 1 \
        --frames 10000 --minutes 9
    python experiments/release.py --workdir "$OUT/$name" --name "$name"
}

release frame diffupose_mlp 0 0.3
release sequence diff3dhpe_frames 0.6 0.5
