"""Joints that a pattern hides, hidden in the data themselves for methods that are told of them."""

from __future__ import annotations

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.occlusions import hide_clips
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Lifter

# The frames for which one pattern holds where the lifter is one of single frames.
_RUN = 50
# The patterns that hide whole limbs for a calibration, and how often each does.
LIMBS = {"leg": 0.25, "arm": 0.2, "lower_body": 0.1}


def hide_for(lifter: Lifter, clips: ClipSet, job: Job, limbs: bool = False) -> tuple[ClipSet, Job]:
    """The frames in which the joints that a job hides were not seen, and the job without its pattern.

    What was not seen can then be calibrated and reported by itself. A lifter that is not told gets the job's pattern as
    the papers do it, with keypoints at (0, 0): its frames and the job stay as they are.

    Args:
        lifter: The lifter that is told what was not seen, or not.
        clips: The frames.
        job: How they are lifted, with the pattern.
        limbs: Whether whole limbs are hidden too (`LIMBS`): patterns of training seldom hide so much, and of what
            happens seldom nothing can be calibrated.
    """
    if job.occlusion == "none" or not lifter.takes_mask:
        return clips, job
    # Of a single frame the joints would be seen in the next: the guesses for methods beside this one would be too good.
    run = lifter.frames if lifter.frames > 1 else _RUN
    hidden = hide_clips(clips, job.occlusion, run, job.occlusion_rate or None, job.seed)
    for number, (pattern, rate) in enumerate(LIMBS.items() if limbs else ()):
        hidden = hide_clips(hidden, pattern, run, rate, job.seed + 1 + number)
    return hidden, job.replace(occlusion="none", occlusion_rate=0.0)
