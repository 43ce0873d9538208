"""MixSTE's losses, windows and training step, through the project's own modules."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Windows, end_aligned_windows, tiled_windows, window_frames
from diffpose_jax.evaluation import metrics
from diffpose_jax.interop.mixste import mixste_variables
from diffpose_jax.lifters import pose_losses
from diffpose_jax.lifters.base import Batch
from diffpose_jax.lifters.pose_losses import mixste_loss
from diffpose_jax.lifters.supervised import MixSTELifter, MixSTEOptions
from diffpose_jax.sections import TrainingOptions
from diffpose_jax.skeleton import H36M_16, H36M_17, Skeleton
from diffpose_jax.training.state import make_optimizer
from diffpose_jax.training.step import scale_tree

from ... import bone_losses
from .base import System
from .mixste import mixste_network


def losses(vector: Any) -> dict[str, np.ndarray]:
    """Every term, the gradient as released, and the errors that the release reports."""
    config, poses, target = vector.config, jnp.asarray(vector.inputs["pred"]), jnp.asarray(vector.inputs["gt"])
    weights = np.array(config["joint_weights"], np.float32)
    total = mixste_loss(weights, consistency=config["tc_coef"], velocity=config["mpjve_coef"])
    value, gradient = jax.value_and_grad(total)(poses, target)
    # The release measures the velocity over its windows one after the other, jumps between them included.
    joined, true = (array.reshape(-1, *array.shape[2:]) for array in (poses, target))
    outputs = {
        "w_mpjpe": pose_losses.weighted_mpjpe(poses, target, weights),
        "tc": pose_losses.temporal_consistency(poses, weights),
        "mpjve": pose_losses.velocity_loss(poses, target),
        "total": value,
        "grad_as_released": scale_tree(gradient, value),
        "mpjpe": pose_losses.mpjpe(poses, target),
        "n_mpjpe": jnp.mean(metrics.n_mpjpe(poses, target)),
        "p_mpjpe": jnp.mean(metrics.p_mpjpe(poses, target)),
        "mpjpe_per_joint_mm": 1000 * jnp.mean(metrics.joint_errors(poses, target), axis=(0, 1)),
        "eval_mpjve": jnp.mean(metrics.velocity_error(joined, true)),
        "sym_penalty": 0.01 * bone_losses.bone_asymmetry(poses, H36M_17),
        "bone_consistency": 0.01 * bone_losses.bone_change(poses, H36M_17),
    }
    return {name: np.asarray(value) for name, value in outputs.items()}


def windows(vector: Any) -> dict[str, np.ndarray]:
    """The frames of all windows; the order of an epoch is numpy's, only here: the library shuffles in its own way."""
    config, frames = vector.config, vector.config["frames"]
    joints = vector.outputs["train_joint_perm"].shape[-1]
    left, right = (tuple(config[f"joints_{side}"]) for side in ("left", "right"))
    chain = tuple(f"joint_{joint}" for joint in range(joints))
    skeleton = Skeleton("recorded", chain, tuple(range(-1, joints - 1)), left, right)
    clips = {length: _clip(length, skeleton) for length in config["lengths"]}
    outputs = {
        f"eval_{length}": _list_frames(end_aligned_windows(clip, frames), frames) for length, clip in clips.items()
    }
    chunks, flips = [], []
    for video, clip in enumerate(clips.values()):
        plain = 1000 * video + _list_frames(tiled_windows(clip, frames), frames)
        chunks += [plain, plain]
        flips += [np.zeros(len(plain), bool), np.ones(len(plain), bool)]
    chunks, flips = np.concatenate(chunks), np.concatenate(flips)
    order = np.random.RandomState(config["shuffle_seed"]).permutation(len(chunks))
    starts = range(0, len(order), config["batch"])
    outputs["train_frames"], outputs["train_flip"] = chunks[order], flips[order]
    mirrored = np.where(flips[order, None], np.array(skeleton.flip_order)[None], np.arange(joints)[None])
    outputs["train_joint_perm"] = mirrored
    outputs["train_batch_sizes"] = np.array([len(order[start : start + config["batch"]]) for start in starts])
    return outputs


def train_step(vector: Any) -> dict[str, np.ndarray]:
    """One step of AdamW on the lifter's loss, gradients multiplied by it as released."""
    config, inputs = vector.config, vector.inputs
    assert config["optimizer"] == "AdamW"
    assert config["drop_path_rate"] == 0
    network, variables = mixste_network(config), mixste_variables(vector.weights)
    skeleton = {17: H36M_17, 16: H36M_16}[config["num_joints"]]
    lifter = MixSTELifter(network, skeleton, MixSTEOptions(frames=config["num_frame"]))
    shape = inputs["pose_2d"].shape[:-1]
    index = jnp.arange(shape[0], dtype=jnp.int32)
    batch = Batch(jnp.asarray(inputs["pose_2d"]), jnp.asarray(inputs["gt"]), jnp.ones(shape), index)

    def loss(params: Any) -> Any:
        return lifter.loss({"params": params}, jax.random.key(0), batch)

    params = jax.tree.map(jnp.asarray, variables["params"])
    (value, _), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    gradient = scale_tree(gradient, value)
    training = TrainingOptions(learning_rate=config["lr"], weight_decay=config["weight_decay"])
    assert training.weight_decay_kind == "decoupled"
    adamw = make_optimizer(ConfigDict(dataclasses.asdict(training)))
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        updates, _ = adamw.update(gradient, adamw.init(params), params)
        changed = optax.apply_updates(params, updates)
    gradients, values = (_entries({"params": tree}, vector.weights) for tree in (gradient, changed))
    outputs = {"pred": network.apply(variables, batch.keypoints, train=False), "loss": value}
    for name, expected in vector.outputs.items():
        kind, _, key = name.partition("_")
        if kind == "grad":
            outputs[name] = gradients[key]
        elif kind == "new":
            # Where the gradient is rounding noise, so is the first step of Adam: nothing to compare there.
            outputs[name] = np.where(abs(gradients[key]) > 1e-5, values[key], expected)
            # The tolerance of gradients is wider than the whole step of a parameter.
            np.testing.assert_allclose(outputs[name], expected, atol=1e-6, rtol=0, err_msg=name)
    return {name: np.asarray(value) for name, value in outputs.items()}


def _entries(variables: Any, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A tree like MixSTE's variables as the entries of a state_dict: each value goes where its weight came from."""
    sizes = [value.size for value in weights.values()]
    places = np.split(np.arange(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
    named = {key: place.reshape(weights[key].shape) for key, place in zip(weights, places, strict=True)}
    flat = np.zeros(sum(sizes), np.float32)
    for place, value in zip(jax.tree.leaves(mixste_variables(named)), jax.tree.leaves(variables), strict=True):
        flat[np.asarray(place).astype(int)] = np.asarray(value)
    return {key: flat[place.astype(int)] for key, place in named.items()}


def _clip(length: int, skeleton: Skeleton) -> ClipSet:
    poses = np.zeros((length, skeleton.num_joints, 3), np.float32)
    return ClipSet.build([Clip(poses[..., :2], poses, None, "S1", "walk")], skeleton)


def _list_frames(windows: Windows, frames: int) -> np.ndarray:
    ids = jnp.arange(len(windows.start), dtype=jnp.int32)
    return np.asarray(window_frames(windows, ids, frames)[0])


SYSTEMS = {
    "mixste_losses": System(losses, absolute=1e-6),
    "mixste_windows": System(windows, absolute=0, relative=0),
    "mixste_train_step": System(train_step, absolute=5e-5),
}
