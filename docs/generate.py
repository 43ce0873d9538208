"""Writes `configuration.md`, the reference of all options, from the dataclasses that define them.

python docs/generate.py            writes the page
python docs/generate.py --check    exits with 1 where the page is not what would be written
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path

from diffpose_jax.config import Options
from diffpose_jax.registry import METHODS
from diffpose_jax.sections import SECTIONS, DiffusionOptions

PAGE = Path(__file__).with_name("configuration.md")

INTRODUCTION = """# Configuration

<!-- Written by docs/generate.py from the option dataclasses: change the options there and run it again. -->

A config is a tree of sections. Every key is a flag: `--config.training.steps=2000`. A config file is a Python file with
`get_config(argument)` that returns one; the files in [configs](../configs) start from the defaults of a method
(`diffpose_jax.registry.config_for`) and set what the paper's recipe sets. `config.json` in a work directory holds the
resolved config. A value out of its range, a word that is not among the choices and an unknown key are one line and exit
code 2.

Two keys stand beside the sections: `name`, a label for logs, and `seed` (0), from which all randomness of training
derives.

## The argument of a config

`--config NAME:DATA,WORD,...` takes, after the colon, the data set and, in any order, its 2D input (`gt`, `cpn`, `hr`)
or target (`annot3`, `univ_annot3`), the frames of a window, a recipe where the config has some (`release`, `paper`,
`heatmaps`), the precision (`bfloat16`) and a size: `small` trains in minutes on two cores, `hour` in about an hour.
Without a size it is the recipe of the paper or its release. `diffpose_frame:human36m,cpn,paper` is an example. DiffPose
and DiffHPE-Wrapper also need `--config.lifter.context`, the work directory of a trained supervised lifter.

`bfloat16` is for GPUs and TPUs: networks compute in it, while parameters, statistics, softmax, sums over rows, losses
and everything outside the networks stay float32. Without it networks compute in float32, for which these devices round
the factors of products by default (TF32: 10 bits of mantissa in place of 23). `JAX_DEFAULT_MATMUL_PRECISION=highest`
makes products exact, as the parity tests do; cameras, metrics and mixtures are always computed so.

## Work directory

| file | what it is |
|---|---|
| `config.json` | the resolved config; the directory belongs to it |
| `checkpoints/`, `best/` | the newest states, and the averaged weights that did best on the valid split |
| `metrics.jsonl`, `tensorboard/` | losses, learning rate, validation errors, rates, times; poses of the valid split |
| `folds.json`, `folds/` | with `--cross_fit`: the subjects of each fold, and a work directory without each |
| `calibration.json` | what `calibrate` found: temperature, scales of the spread, conformal regions |
| `results.html`, `results.md`, `results.json`, `figures/` | what `evaluate` found; the page needs no network |

The same training command continues, bit for bit as if it had never stopped. SIGTERM and SIGINT save a checkpoint first;
the program then exits with 143 or 130. One program trains in a work directory at a time: a second one ends and names
the first. A checkpoint holds its step, the config and a digest of every leaf; one that is damaged gives way to the one
before it. Files are written under a temporary name and appear when they are whole; what a killed process left under
such a name, `.results.1a2b3c4d-4711-5e6f7081.part.json`, is removed by the next one on its machine that writes to the
folder. Steps whose loss or gradient is not finite are skipped and counted (`training.non_finite`); after many of
them training ends, and goes on in the same work directory with another `training.learning_rate` or
`training.clip_norm`. With more `training.steps` (or `epochs`) it goes on beyond its end, as if it had been asked for
them at first; not with
`decay="cosine"`, which has brought the learning rate to zero. `train --init_from WORKDIR` starts another run from the
best weights of a work directory, with a new optimiser. An epoch is one pass over the training windows, each mirrored
with probability one half (`data.flip`): papers that count every window as it is and mirrored have half as many.

## GPUs, TPUs, clusters

Training runs on all local devices: `pip install '.[gpu]'` for NVIDIA GPUs, `'.[tpu]'` on a TPU. On a
cluster set `--config.training.distributed=true` and start one process per host: TPU pods, SLURM, MPI and Kubernetes
are recognised. Elsewhere set `JAX_COORDINATOR_ADDRESS=host:port`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
All see the work directory under the same path. `experiments/launch/tpu_pod.sh` starts a training on all hosts of a TPU
slice; it was never run on one.

Where a process is lost, the others end: at once where its connections break, after 30 seconds without a sign from a
machine that is gone. They say so in one line and exit with 75, or 134 where a thread of JAX notices first. The same
command goes on from the newest checkpoint, with as many processes and devices as there are then: batches and noise do
not depend on their number. A signal to any of them stops all at the next line of the log.
"""

METHODS_INTRODUCTION = """## Methods

`config.lifter.name` says which method is trained: one of the names below or the
[import path of your own](add_a_method.md). The section `lifter` then holds the method's options. A method also has its
own defaults for the section `diffusion`.
"""


def write_page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for name, section in SECTIONS.items():
        parts.append(f"## `config.{name}`\n\n{first_paragraph(section)}\n\n{table(section)}\n")
    parts.append(METHODS_INTRODUCTION)
    for name, method in METHODS.items():
        parts.append(f"### `{name}`\n\n{first_paragraph(method)}\n\n{diffusion_defaults(method.diffusion)}")
        parts.append(table(method.options_type) + "\n")
    return "\n".join(parts)


def first_paragraph(documented: type) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((documented.__doc__ or "").split("\n\n")[0].split())


def table(section: type[Options]) -> str:
    """The options of one section: name, type or choices, default, range and unit, what it is and where it is from."""
    rows = ["| option | default | values | what it is |", "|---|---|---|---|"]
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        described = field.metadata["doc"] + (f" ({field.metadata['source']})" if field.metadata["source"] else "")
        cells = f"`{field.name}`", show(field.default), values(field, hints[field.name]), described
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def show(value: object) -> str:
    """A default as it is written in a config."""
    return f"`{value!r}`".replace("'", '"')


def values(field: dataclasses.Field, hint: object) -> str:
    """What an option accepts: its choices, or its type with range and unit."""
    if choices := typing.get_args(hint):
        return ", ".join(f"`{choice}`" for choice in choices)
    unit = f"in {field.metadata['unit']}" if field.metadata["unit"] else ""
    return ", ".join(part for part in (getattr(hint, "__name__", str(hint)), limits(field), unit) if part)


def limits(field: dataclasses.Field) -> str:
    """The range of a number in words."""
    words = {"above": "above", "low": "from", "high": "to"}
    bounds = {key: field.metadata.get(key) for key in words}
    return " ".join(f"{words[key]} {bound}" for key, bound in bounds.items() if bound is not None)


def diffusion_defaults(own: DiffusionOptions) -> str:
    """Which defaults of the section `diffusion` a method changes, as one sentence, or nothing."""
    general = DiffusionOptions()
    changed = {
        field.name: getattr(own, field.name)
        for field in dataclasses.fields(own)
        if getattr(own, field.name) != getattr(general, field.name)
    }
    listed = ", ".join(f"`{name}` = {show(value)}" for name, value in changed.items())
    return f"Defaults of `config.diffusion`: {listed}.\n" if changed else ""


def main() -> int:
    """Writes or checks the page."""
    text = write_page()
    if "--check" in sys.argv[1:]:
        if PAGE.is_file() and PAGE.read_text() == text:
            return 0
        print(f"{PAGE}: not up to date; run `python docs/generate.py`", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
