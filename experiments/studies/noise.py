"""Noisy keypoints: `python experiments/studies/noise.py --data data/cmu.npz --models pretrained:supervised,runs/x`.

The two kinds of artificial noise of Diff3DHPE (section 4.4.2, figure 6), at test time only: Gaussian noise of every
coordinate, in normalised image units (half the width is 1), and keypoints that are dropped with some probability. The
figure shows only curves; here every model is compared with the first one on the same noise. Archives with the noise in
them are kept in OUTPUT/data.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial

import numpy as np
import study

from diffpose_jax.data.archives import save_archive
from diffpose_jax.registry import config_for, load_dataset

SIGMAS, DROPPED = (0.0, 0.005, 0.01, 0.05, 0.1, 0.5), (0.0, 0.1, 0.2, 0.4, 0.8)


def main(arguments: list[str]) -> int:
    """Measures, and writes noise.md and noise.png."""
    given = study.parse(__doc__, arguments)
    sigmas, dropped = (SIGMAS[:1] + SIGMAS[3:4], DROPPED[:2]) if given.quick else (SIGMAS, DROPPED)
    noisy = [given.data if not sigma else make_noisy(given, sigma) for sigma in sigmas]
    patterns = ["none" if not rate else ["random", rate] for rate in dropped]
    grids = [study.grid_of(given, data=noisy), study.grid_of(given, occlusions=patterns)]
    measured = study.measure(grids, given)
    settings = {
        "sigma": (sigmas, [{"data": path, "occlusion": "none"} for path in noisy]),
        "dropped": (dropped, [{"data": given.data, "occlusion": "random" if rate else "none", "occlusion_rate": rate}
                              for rate in dropped]),
    }  # fmt: skip
    first, *others = given.models
    parts: list = ["MPJPE in mm of the mean of the hypotheses; in brackets the 95 % interval over subjects."]
    panels = []
    for name, (levels, places) in settings.items():
        lines = {
            study.label(model): [
                measured.value("mpjpe", workdir=model, aggregation="mean", **place) for place in places
            ]
            for model in given.models
        }
        body = [[label, *map(study.cell, found)] for label, found in lines.items()]
        body += [_losses(measured, model, first, places) for model in others]
        parts.append(([name, *map(str, levels)], body))
        panels.append(partial(study.draw_lines, places=levels, lines=lines, labels=(name, "MPJPE (mm)")))
    study.write_table(given.output / "noise.md", parts)
    study.draw(given.output / "noise.png", panels)
    return 0


def make_noisy(given: argparse.Namespace, sigma: float) -> str:
    """The path of an archive with the test split, Gaussian noise added to its keypoints."""
    path = given.output / "data" / f"sigma-{sigma:g}.npz"
    if not path.exists():
        config = config_for("diffupose").data
        config.source = given.data
        clips = load_dataset(config, ["test"])["test"]
        noise = np.random.default_rng(0).normal(0, sigma, clips.keypoints.shape).astype(np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_archive(path, {"test": dataclasses.replace(clips, keypoints=np.asarray(clips.keypoints) + noise)})
    return str(path)


def _losses(measured: study.Measured, model: str, first: str, places: list[dict]) -> list[str]:
    cells = []
    for place in places:
        both = [{"workdir": one, "aggregation": "mean", **place} for one in (model, first)]
        cells.append(measured.difference(*both, "mpjpe").text())
    return [f"{study.label(model)} less {study.label(first)}", *cells]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
