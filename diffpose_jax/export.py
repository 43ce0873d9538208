"""Exports a trained lifter's sampler as one file that runs without this package, with jax alone:

    diffpose export --workdir runs/mine --output sampler.jaxexport

The file is a `jax.export` artefact: StableHLO with the weights, the calibration and the person-centred view inside, for
any batch size and for CPU, NVIDIA GPUs and TPUs. SAMPLER.json beside it names joints, frames and inputs.
docs/exports.md has the ten lines that use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax import Array, export

from diffpose_jax import cli
from diffpose_jax.data.views import pinhole
from diffpose_jax.errors import UserError
from diffpose_jax.formats.keypoint_files import MIN_SCORE
from diffpose_jax.lifters.base import Batch, Lifter, Sampling, Variables
from diffpose_jax.lifters.visibility import believe_guesses
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.model import Model, load
from diffpose_jax.whole_files import write_text, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN_PLATFORMS = (*PLATFORMS, "rocm")

# (variables, keypoints [B, F, J, 2], scores [B, F, J], focal [B], seed [], clip [B]) -> hypotheses [H, B, F, J, 3]
Sampler = Callable[[Variables, Array, Array, Array, Array, Array], Array]


def export_sampler(
    model: Model, hypotheses: int = 20, *, flip: str | bool | None = None, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """The sampler of a trained lifter as the bytes of a `jax.export` artefact of five inputs and one output.

    Its inputs are those of `describe_sampler`. The same keypoints, seed and clip give the same hypotheses, whatever
    else is in the batch, and those of `Model.lift` where its noise is that of clips and clip is the clip's first frame.

    Args:
        model: The trained lifter.
        hypotheses: Poses drawn for each frame; 1 of a deterministic lifter.
        flip: How the mirrored input enters, as in `Sampling`; None: as in the model.
        platforms: Where it can run: some of 'cpu', 'cuda', 'rocm', 'tpu'.

    Raises:
        UserError: A lifter of heatmap mixtures, an unknown platform, or no hypothesis.
    """
    _check(model, hypotheses, platforms)
    lifter, variables = model.trained.lifter, jax.device_get(model.trained.variables)
    sampler = make_sampler(lifter, model.sampling(hypotheses, flip=flip))
    (batch,) = export.symbolic_shape("batch")
    shape = batch, lifter.frames, lifter.skeleton.num_joints
    keypoints, scores, focal = (jax.ShapeDtypeStruct(one, jnp.float32) for one in ((*shape, 2), shape, (batch,)))
    arguments = (
        keypoints,
        scores,
        focal,
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    exported = export.export(jax.jit(partial(sampler, variables)), platforms=tuple(platforms))(*arguments)
    return bytes(exported.serialize())


def make_sampler(lifter: Lifter, sampling: Sampling) -> Sampler:
    """A pure function from arrays to hypotheses, with what a lifter is given around the arrays.

    Joints that are not finite, or of a score below 0.1, were not seen. A lifter that is not told of hidden joints
    reads what the keypoints have in their place.
    """
    flipped = with_flips(lifter)

    def sample_one(
        variables: Variables, keypoints: Array, scores: Array, focal: Array, seed: Array, clip: Array
    ) -> Array:
        """Draws hypotheses `[H, F or 1, J, 3]` (m) of one window.

        Args:
            variables: Those of the lifter.
            keypoints: `[F, J, 2]`, normalised image units.
            scores: `[F, J]`, the detector's.
            focal: The focal length in normalised image units, a scalar.
            seed: The seed of all noise, a scalar.
            clip: The number of its clip; windows of one clip have the same noise. A scalar.
        """
        finite = jnp.isfinite(keypoints).all(axis=-1)
        mask = jnp.where(finite & (scores >= MIN_SCORE), jnp.minimum(scores, 1), 0)
        keypoints = jnp.where(finite[..., None], keypoints, 0)
        poses = jnp.zeros((1, *keypoints.shape[:-1], 3), jnp.float32)
        batch = Batch(keypoints[None], poses, mask[None], clip[None], camera=pinhole(focal, (1,)))
        batch = believe_guesses(lifter, batch)
        return flipped.draw(variables, jax.random.key(seed), batch, sampling).samples[:, 0]

    # One example at a time: methods may ask for the length of a batch, which is a number only while it is not symbolic.
    return jax.vmap(sample_one, in_axes=(None, 0, 0, 0, None, 0), out_axes=1)


def describe_sampler(model: Model, hypotheses: int = 20, *, flip: str | bool | None = None) -> dict[str, Any]:
    """What one has to know to use an exported sampler, as JSON; for the arguments see `export_sampler`."""
    lifter, calibration = model.trained.lifter, model.trained.calibration
    sampling, frames, joints = model.sampling(hypotheses, flip=flip), lifter.frames, lifter.skeleton.num_joints
    regions = None if calibration is None else calibration.regions
    return {
        "format": "diffpose_jax sampler 1",
        "inputs": {
            "keypoints": f"[B, {frames}, {joints}, 2] float32, x/w*2-1 and y/w*2-h/w of pixels, w and h of the image",
            "scores": f"[B, {frames}, {joints}] float32, 0..1; below {MIN_SCORE} a joint was not seen",
            "focal": "[B] float32, focal length in halves of the image's width",
            "seed": "[] uint32",
            "clip": "[B] int32, windows of one clip have one number and the same noise",
        },
        "output": f"[{sampling.hypotheses}, B, {1 if lifter.middle_frame else frames}, {joints}, 3] float32, m, "
        "root-relative, x right, y down, z away from the camera",
        "sees_hidden_joints": lifter.takes_mask,
        "joints": list(lifter.skeleton.joints),
        "parents": list(lifter.skeleton.parents),
        # Radius of a joint's region, m: its factor times (standard deviation of the hypotheses + floor_m); of a joint
        # that was not seen the factor is that of `hidden`, where there is one.
        "regions": None if regions is None else {
            "factors": {level: list(each) for level, each in zip(("50", "90"), regions.factors, strict=True)},
            "floor_m": regions.floor,
            "hidden": regions.hidden and dict(zip(("50", "90"), regions.hidden, strict=True)),
        },
        **{name: value for name, value in model.settings(hypotheses, "mean", None).items() if name != "aggregation"},
        "flip": sampling.flip,
    }  # fmt: skip


def _check(model: Model, hypotheses: int, platforms: Sequence[str]) -> None:
    if model.needs_mixtures:
        found = f"{model.config.lifter.name} on mixtures fitted to heatmaps (config.data.mixtures)"
        raise UserError(f"export: expected a lifter of keypoints, found {found}, which a sampler has no input for")
    if hypotheses < 1:
        raise UserError(f"hypotheses: expected at least 1, found {hypotheses}")
    unknown = [name for name in platforms if name not in _KNOWN_PLATFORMS]
    if unknown or not platforms:
        found = ", ".join(unknown) or "none"
        raise UserError(f"platforms: expected some of {', '.join(_KNOWN_PLATFORMS)}, found {found}")


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    cli.define_model(values)
    flags.DEFINE_string("output", "sampler.jaxexport", "The file; FILE.json is written beside it.", flag_values=values)
    flags.DEFINE_integer("hypotheses", 20, "Hypotheses per frame.", flag_values=values)
    cli.define_flip(values)
    flags.DEFINE_list("platforms", list(PLATFORMS), f"Some of {', '.join(_KNOWN_PLATFORMS)}.", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, exports, and says what is where."""
    cli.require(argv, given, "output")
    model = load(cli.chosen_model(given), flip=given.flip)
    path = Path(given.output)
    artefact = export_sampler(model, given.hypotheses, platforms=given.platforms)
    described = describe_sampler(model, given.hypotheses)
    beside = path.with_suffix(".json")
    with write_whole(path) as part:
        part.write_bytes(artefact)
    write_text(beside, json.dumps(described, indent=1) + "\n")
    print(f"{model.name}: {described['hypotheses']} hypotheses, {len(artefact) / 1e6:.1f} MB, "
          f"for {', '.join(given.platforms)}")  # fmt: skip
    print(f"results: {path}, {beside}")
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
