"""What the files in `configs/` share: their argument, the data it names, and a recipe small enough for two cores."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ml_collections import ConfigDict

from diffpose_jax.errors import UserError
from diffpose_jax.registry import DATA_SETS, config_for

SIZES = ("small", "hour", "day")
PRECISIONS = ("bfloat16",)


class Argument(NamedTuple):
    """A config's argument: data set, its 2D input (or target, for MPI-INF-3DHP), frames and size.

    frames is 0 and size empty where the argument does not say; size 'small' trains in minutes on two cores, 'hour' in
    about an hour, 'day' in many (a config without such a recipe takes the small one). recipe is a word that only some
    configs know, such as 'release', or empty. precision is the type that the network computes in.
    """

    dataset: str
    keypoints: str
    frames: int
    size: str
    recipe: str = ""
    precision: str = "float32"


def parse_argument(text: str, recipes: Collection[str] = ()) -> Argument:
    """Reads `human36m,cpn,243`, `cmu,27,small` and the like, in any order after the data set; recipes are more words.

    Raises UserError naming a word that means nothing here.
    """
    dataset, *words = text.split(",")
    if dataset not in DATA_SETS:
        raise UserError(f"config argument {text!r}: expected a data set of {', '.join(DATA_SETS)}, found {dataset!r}")
    chosen = Argument(dataset, (*DATA_SETS[dataset].inputs, "")[0], 0, "")
    for word in words:
        if word.isdecimal() and int(word) > 0:
            chosen = chosen._replace(frames=int(word))
        elif word in SIZES:
            chosen = chosen._replace(size=word)
        elif word in PRECISIONS:
            chosen = chosen._replace(precision=word)
        elif word in recipes:
            chosen = chosen._replace(recipe=word)
        elif word in DATA_SETS[dataset].inputs:
            chosen = chosen._replace(keypoints=word)
        else:
            known = (*DATA_SETS[dataset].inputs, *SIZES, *PRECISIONS, *recipes, "a number of frames")
            raise UserError(f"config argument {text!r}: expected {', '.join(known)}, found {word!r}")
    return chosen


def start(
    method: str, name: str, text: str, recipes: Mapping[str, str] = MappingProxyType({})
) -> tuple[ConfigDict, Argument]:
    """The config of a method on the data that an argument names, and the argument, read.

    Args:
        method: A name of `registry.METHODS`, or an import path.
        name: The name of the config file.
        text: What follows its colon: `human36m,cpn,243`.
        recipes: Words for which it is the config of another method, `{word: method}`.

    Raises:
        UserError: A word of the argument means nothing here.
    """
    argument = parse_argument(text, recipes)
    config = config_for(recipes.get(argument.recipe, method))
    config.name = f"{name} {text}"
    config.data.source = _source(argument)
    config.data.layout = DATA_SETS[argument.dataset].layout
    if argument.keypoints == "hr":  # HRNet's files have no Neck/Nose
        config.data.layout = "h36m16"
    if argument.frames and "frames" not in config.lifter:
        raise UserError(f"config argument {text!r}: {name} lifts single frames, found {argument.frames} frames")
    if argument.frames:
        config.lifter.frames = argument.frames
    if argument.precision != "float32":
        if "compute_dtype" not in config.lifter:
            raise UserError(f"config argument {text!r}: {name} has no option compute_dtype, found {argument.precision}")
        config.lifter.compute_dtype = argument.precision
    return config, argument


def config_beside(path: str, name: str) -> Callable[[str], ConfigDict]:
    """The `get_config` of the config file called `name` in the folder of the one at `path`."""
    return runpy.run_path(str(Path(path).with_name(f"{name}.py")))["get_config"]


def set_heatmaps(config: ConfigDict) -> None:
    """Asks for mixtures of heatmaps: simulated for the embedded motion, in an archive with them for all other data."""
    config.data.mixtures = True
    if config.data.source == "synthetic":
        config.data.heatmaps = True
    else:
        config.data.source = config.data.source.removesuffix(".npz") + "_heatmaps.npz"


def set_diffpose(config: ConfigDict, argument: Argument) -> None:
    """Five hypotheses, as in the paper (section 5), from heatmaps where the argument says so.

    The recipe 'paper' also takes the three options in which the default differs from the paper, see
    `lifters.diffpose.method`, and all timesteps, h_{k-1} = g(h_k): reading h_0 off the next pose, as longer jumps need,
    would multiply the network's error by 10 to 33 in each of five.
    """
    if argument.recipe in ("heatmaps", "paper"):
        set_heatmaps(config)
    if argument.recipe == "paper":
        config.diffusion.update(predict="next", sampling_steps=config.diffusion.steps)
        config.lifter.update(component="weight", preconditioning="none")
    config.evaluation.update(hypotheses=5)
    config.training.update(valid_hypotheses=5)


def set_frames(config: ConfigDict, frames: int) -> None:
    """Sets the frames of a window, and how many windows are evaluated at a time so that memory stays the same."""
    config.lifter.frames = frames
    config.evaluation.batch_size = max(1, 1024 // frames)


def _source(argument: Argument) -> str:
    if argument.dataset == "synthetic":
        return "synthetic"
    return f"data/{argument.dataset}{'_' if argument.keypoints else ''}{argument.keypoints}.npz"


def train_epochs(
    config: ConfigDict, number: int, batch_size: int, *, mirrored: bool = False, decay_rate: float = 1.0
) -> None:
    """Sets the training to a number of a paper's epochs; how many steps those are depends on the data.

    Args:
        config: The config to change; validation and checkpoints come after every epoch too.
        number: The number of epochs.
        batch_size: Windows in a batch.
        mirrored: Whether the paper's epoch has every window as it is and mirrored. It is two of ours then, in which
            windows are mirrored at random.
        decay_rate: Factor of the learning rate after every epoch.
    """
    passes = 2 if mirrored else 1
    config.training.update(steps=0, epochs=passes * number, batch_size=batch_size)
    config.training.update(validate_every=0, validate_epochs=passes, checkpoint_every=0)
    if decay_rate != 1.0:
        config.training.update(decay="exponential", decay_rate=decay_rate, decay_every=0, decay_epochs=passes)


def train_small(config: ConfigDict, steps: int, batch_size: int, learning_rate: float) -> None:
    """Sets the training that all small runs share: warm-up, cosine decay, clipping, few validations.

    Args:
        config: The config to change.
        steps: Training steps.
        batch_size: Windows in a batch.
        learning_rate: The learning rate after warm-up.
    """
    inner = config.training.inner_steps
    quarter = max(1, steps // 4 // inner) * inner
    config.training.update(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer="adam",
        weight_decay=0.0,
        decay="cosine",
        warmup_steps=min(500, steps // 10),
        clip_norm=1.0,
        ema_decay=0.998 if steps < 10_000 else 0.999,
        log_every=max(1, steps // 120 // inner) * inner,
        validate_every=quarter,
        checkpoint_every=quarter,
        valid_frames=512,
    )
    config.evaluation.update(stride=10)


def train_day(config: ConfigDict, batch_size: int, learning_rate: float) -> None:
    """Sets the training of the reference models: hours on two cores, for people as any camera sees them.

    Person-centred keypoints, random cameras, bodies and detectors (`data.views`, `data.augmentation`), some joints
    hidden, of which and of the detector's scores the network is told. The rate is halved whenever the error on the
    valid split has not fallen for five validations; when it is small nothing changes any more.

    Args:
        config: The config to change.
        batch_size: Windows in a batch.
        learning_rate: The learning rate after warm-up.
    """
    train_small(config, 400_000, batch_size, learning_rate)
    config.data.update(view="person", cameras="random", bodies=0.08, crossover=0.5, detector_strength=1.0)
    config.data.update(occlusion="partial", occlusion_rate=0.3)
    config.lifter.visibility = "confidence"
    config.training.update(decay="plateau", plateau_patience=4, plateau_threshold=0.002, plateau_min_rate=1e-5)
    config.training.update(plateau_feed="best", log_every=500, validate_every=4000, checkpoint_every=2000)
    config.training.update(ema_decay=0.9995, valid_frames=4096)
