"""What a data set holds, in words: amounts, subjects, actions, and the ranges that show wrong units at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.detector.heatmap_clips import Quality


def tabulate(title: str, columns: Mapping[str, Mapping[str, str]]) -> Table:
    """A table with one column per split; `columns` `{split: {row: text}}` have the same rows."""
    table = Table("", *columns, title=title, title_justify="left", show_lines=True)
    for row in next(iter(columns.values()), {}):
        table.add_row(row, *(column[row] for column in columns.values()))
    return table


def describe_clips(clips: ClipSet) -> dict[str, str]:
    """What a split holds, `{what: text}`."""
    minutes = float(np.sum(clips.clip_length / clips.fps)) / 60
    rates = ", ".join(f"{rate:g}" for rate in np.unique(clips.fps))
    valid = "" if clips.valid_frame is None else f", {int(clips.valid_frame.sum()):,} of them valid"
    described = {
        "clips": f"{clips.num_clips:,} of {clips.clip_length.min()} to {clips.clip_length.max()} frames",
        "frames": f"{clips.num_frames:,} ({minutes:.1f} min at {rates} fps)" + valid,
        "layout": clips.skeleton.name,
        "subjects": _list(clips.subject),
        "actions": _list(clips.action),
        "cameras": f"{len(np.unique(clips.camera))}" if (clips.camera >= 0).all() else "unknown",
        "2D x, y (normalised)": "; ".join(_range(clips.keypoints[..., axis], 2) for axis in range(2)),
        "scores": "none" if clips.scores is None else _range(clips.scores, 2),
    }
    if clips.poses is None:
        return described | dict.fromkeys(("depth of the root (m)", "height in the image (m)", "bones (mm)"), "no 3D")
    return described | {
        "depth of the root (m)": "unknown" if clips.root is None else _range(clips.root[:, 2], 1),
        "height in the image (m)": _range(np.ptp(clips.poses[..., 1], axis=1), 2),
        "bones (mm)": _list_bones(clips, clips.poses),
    }


def describe_mixtures(mixture: np.ndarray, quality: Quality) -> dict[str, str]:
    """What packed mixtures `[N, J, M, 6]` are like, `{what: text}`, by a sample of frames where there are many."""
    sample = mixture[:: max(1, len(mixture) // 20_000)].astype(np.float32)
    weights = sample[..., 0] / sample[..., 0].sum(axis=-1, keepdims=True)
    # The exponential of the entropy of the weights: 1 for a single Gaussian, M for M equal ones.
    effective = np.exp(-(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1))
    # The trace of a covariance L L^T is the sum of the squared entries of its factor L.
    std = np.sqrt((weights * (sample[..., 3:] ** 2).sum(axis=-1)).sum(axis=-1) / 2)
    fitted = quality.log_likelihood is not None and quality.degenerate is not None
    return {
        "frames, joints, components": " x ".join(f"{n:,}" for n in mixture.shape[:3]),
        "mean weights, by size": " ".join(f"{weight:.3f}" for weight in weights.mean(axis=(0, 1))),
        "effective components": f"{effective.mean():.2f}, from {effective.min():.2f} to {effective.max():.2f}",
        "std within components": f"median {np.median(std):.4f} of half the image width",
        "log-likelihood of a point": f"{quality.log_likelihood:.3f}" if fitted else "not fitted",
        "degenerate fits": f"{quality.degenerate:.2%}"
        if fitted
        else f"{np.mean(effective < 1.001):.1%} are a single Gaussian",
    }


def _list_bones(clips: ClipSet, poses: np.ndarray) -> str:
    """Mean length of every pair of bones, by the name of its outer joint."""
    child, parent = np.array(clips.skeleton.bones).T
    lengths = np.linalg.norm(poses[:, child] - poses[:, parent], axis=-1).mean(axis=0) * 1000
    groups: dict[str, list[float]] = {}
    for joint, length in zip(child, lengths, strict=True):
        name = clips.skeleton.joints[joint].removeprefix("left_").removeprefix("right_")
        groups.setdefault(name, []).append(length)
    return ", ".join(f"{name} {np.mean(values):.0f}" for name, values in groups.items())


def _range(values: np.ndarray, digits: int) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _list(names: tuple[str, ...]) -> str:
    counts = {name: names.count(name) for name in sorted(set(names))}
    shown = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:16])
    return f"{len(counts)}: {shown}" + (", ..." if len(counts) > 16 else "")
