"""What a user is told about keypoints before they are lifted: joints that were not seen, and what training lacked."""

from __future__ import annotations

from absl import logging

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.gaps import describe_gaps
from diffpose_jax.data.plausibility import find_oddities
from diffpose_jax.lifters.base import Lifter
from diffpose_jax.workdir.trained import Trained


def list_warnings(trained: Trained, clips: ClipSet) -> list[str]:
    """Lines on keypoints, in the lifter's layout, that a trained lifter was not made for; empty where all is well.

    Raises UserError for a clip of which no joint was seen.
    """
    lines = [f"{gaps}; {_say_what_follows(trained.lifter)}"] if (gaps := describe_gaps(clips)) else []
    record = trained.keypoints
    if record is not None and record.layout == clips.skeleton.name:
        # A view of the person shows the network neither where one stands nor how large.
        placed = trained.config.data.view != "person"
        lines += find_oddities(clips, record, placed)
    return [f"keypoints: {line}" for line in lines]


def warn_of_keypoints(trained: Trained, clips: ClipSet) -> None:
    """Logs the lines of `list_warnings`."""
    for line in list_warnings(trained, clips):
        logging.warning("%s", line)


def _say_what_follows(lifter: Lifter) -> str:
    if lifter.takes_mask:
        return "the model was trained for hidden joints and does not read the filled-in ones"
    if lifter.stochastic:
        return (
            "the model was not trained for hidden joints: it reads the guesses, and their hypotheses are widened after"
        )
    return "the model was not trained for hidden joints: it reads the guesses, and knows no spread"
