"""The sections of a config that all methods share: data, diffusion, training and evaluation."""

from __future__ import annotations

import dataclasses
from typing import Literal

from diffpose_jax.config import OptionError, Options, option

Flip = Literal["none", "half", "average"]
Noise = Literal["frame", "clip"]


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """What a method is trained and measured on."""

    source: str = option(
        "synthetic", "'synthetic', the embedded generator, or the path of an archive made by `prepare`"
    )
    synthetic_seed: int = option(0, "seed of the embedded generator", low=0)
    layout: str = option("h36m17", "joints that the lifter works on; data in another layout are mapped to it")
    leave_out: str = option("", "subjects that are left out of the training split, separated by commas")
    flip: bool = option(True, "mirror a random half of every training batch")
    view: Literal["screen", "person"] = option(
        "screen",
        "what the method sees: the keypoints as they are, or as a camera does that looks at the person, at one size",
        source="screen: the papers; person: ours, see `data.views`",
    )
    cameras: Literal["recorded", "random"] = option(
        "recorded",
        "cameras of training: those of the data, or one drawn widely for every example of every epoch, for data whose "
        "keypoints are projected motion",
        source="random: ours, see `data.augmentation`",
    )
    bodies: float = option(
        0.0,
        "with random cameras: standard deviation of the logarithm of bone lengths' factors; 0: bodies as they are",
        low=0,
        high=0.5,
    )
    crossover: float = option(
        0.0,
        "with random cameras: share of the examples with the upper body or the arms of another example",
        low=0,
        high=1,
        source="Li et al., CVPR 2020",
    )
    windows: Literal["centred", "tiled", "random", "random_release"] = option(
        "centred",
        "training windows: 'centred' around every frame, 'tiled' side by side, 'random' (as many as fit side by side, "
        "each anywhere in its clip, anew every epoch), 'random_release' (which never takes a clip's last start)",
        source="centred: VideoPose3D; tiled: MixSTE; random: DiffHPE",
    )
    occlusion: Literal[
        "none", "random", "arm_leg", "leg_gap", "frame_gap", "any", "leg", "arm", "lower_body", "partial"
    ] = option(
        "none",
        "pattern that hides joints in training and evaluation: DiffHPE's to 'any', which mixes them; 'leg', 'arm', "
        "'lower_body' hide these throughout; 'partial' mixes what users meet with whole people, for training with "
        "`lifter.visibility`",
        source="DiffHPE, section 4.3",
    )
    occlusion_rate: float = option(0.0, "rate of the pattern; 0: its own", low=0, high=0.99)
    detector_strength: float = option(
        0.0,
        "strength of the simulated keypoint noise on every split; 0: none. With random cameras that of every training "
        "example is drawn below it, and its errors anew in every epoch",
        low=0,
    )
    detector_bias: float = option(
        0.0,
        "size of those errors of the simulated keypoint noise that last for a clip, as a multiple of BlazePose's; "
        "0: none, as of a detector trained on the data's own joints",
        low=0,
    )
    heatmaps: bool = option(
        False, "keypoints are the estimates of simulated heatmaps, unless the archive already holds fitted mixtures"
    )
    mixtures: bool = option(
        False, "the method needs mixtures fitted to heatmaps, from the archive or from simulated ones"
    )

    def check(self) -> None:
        """New bodies and cameras need keypoints that are projected anew: no detector has seen those pictures."""
        for name in ("bodies", "crossover"):
            if getattr(self, name) and self.cameras != "random":
                raise OptionError(name, "0 with data.cameras='recorded'", getattr(self, name))
        if self.cameras == "random" and (self.mixtures or self.heatmaps):
            raise OptionError("cameras", "'recorded' with heatmaps or mixtures", self.cameras)


@dataclasses.dataclass(frozen=True)
class DiffusionOptions(Options):
    """The noise schedule, what the network predicts and the reverse steps; supervised lifters read nothing of it."""

    schedule: Literal["cosine", "linear", "linear_rescaled", "quadratic"] = option("cosine", "noise schedule")
    steps: int = option(100, "timesteps K of the schedule", low=1)
    max_beta: float = option(
        0.999, "largest beta of the cosine schedule", above=0, high=0.9999999, source="Nichol 2021"
    )
    beta_start: float = option(1e-4, "first beta of the other schedules", above=0, high=0.9999999, source="DDPM")
    beta_end: float = option(0.02, "last beta of the other schedules", above=0, high=0.9999999, source="DDPM")
    predict: Literal["eps", "x0", "v", "next"] = option(
        "eps",
        "what the network predicts (for DiffPose: what its loss compares): noise, pose, v or the next, less noisy pose",
    )
    clip: float = option(
        1.0, "x0 is clipped to plus and minus this in every reverse step; 0: not clipped", low=0, unit="m"
    )
    sampler: Literal["ddpm", "ddim"] = option("ddpm", "reverse process: ancestral (DDPM) or DDIM")
    sampling_steps: int = option(0, "reverse steps; 0: as many as the schedule has", low=0)
    spacing: Literal["linspace", "even", "quadratic"] = option("linspace", "which timesteps DDIM takes")
    num_timesteps: int = option(0, "DDIM chooses among this many first timesteps; 0: among all", low=0)
    eta: float = option(0.0, "noise of DDIM: 0 is deterministic, 1 has DDPM's posterior variance", low=0, high=1)

    def check(self) -> None:
        """A sampler cannot take more timesteps than the schedule has."""
        if self.num_timesteps > self.steps:
            raise OptionError("num_timesteps", f"0 to diffusion.steps={self.steps}", self.num_timesteps)
        if self.sampling_steps > self.steps:
            raise OptionError("sampling_steps", f"0 to diffusion.steps={self.steps}", self.sampling_steps)


@dataclasses.dataclass(frozen=True)
class TrainingOptions(Options):
    """The optimiser, its learning rate, the moving average, and how often is logged, validated and saved."""

    steps: int = option(10_000, "training steps; 0: those of `epochs`", low=0)
    epochs: int = option(0, "passes over the training windows, where `steps` is 0", low=0)
    batch_size: int = option(1024, "windows in a batch, over all devices", low=1)
    inner_steps: int = option(20, "steps per dispatch; steps and every `*_every` must be a multiple of it", low=1)
    learning_rate: float = option(4e-5, "learning rate after warm-up", above=0)
    decay: Literal["constant", "cosine", "exponential", "plateau"] = option("constant", "course of the learning rate")
    decay_rate: float = option(0.96, "factor of 'exponential'", above=0, high=1)
    decay_every: int = option(100_000, "steps between two factors of 'exponential'; 0: those of `decay_epochs`", low=0)
    decay_epochs: int = option(1, "epochs between two of them, where `decay_every` is 0", low=1)
    plateau_factor: float = option(0.5, "factor of 'plateau'", above=0, high=1)
    plateau_patience: int = option(11, "validations in a row that may fail to lower the error before the factor", low=0)
    plateau_threshold: float = option(0.1, "relative decrease of the error that counts as one", low=0, high=0.999)
    plateau_min_rate: float = option(0.0, "least learning rate of 'plateau'", low=0)
    plateau_error: Literal["mpjpe", "loss"] = option(
        "mpjpe",
        "what 'plateau' calls the error: the MPJPE on the valid split, or the loss there",
        source="loss: DiffHPE's release",
    )
    plateau_feed: Literal["current", "best"] = option(
        "current", "error judged by 'plateau': the current one, or the lowest so far", source="best: DiffHPE's release"
    )
    warmup_steps: int = option(0, "steps of linear warm-up", low=0)
    optimizer: Literal["adam", "amsgrad"] = option("adam", "optimiser")
    weight_decay: float = option(0.0, "weight decay of every parameter", low=0)
    weight_decay_kind: Literal["decoupled", "l2"] = option(
        "decoupled", "'decoupled' (AdamW) or 'l2', added to the gradient"
    )
    scale_by_loss: bool = option(
        False, "multiply every gradient by the loss", source="True: the releases of MixSTE and D3DP"
    )
    clip_norm: float = option(0.0, "largest global norm of the gradient; 0: not clipped", low=0)
    non_finite: Literal["skip", "stop"] = option(
        "skip", "a step whose loss or gradient is NaN or infinite: skipped and counted, or the end of training"
    )
    skips_in_a_row: int = option(50, "so many skipped steps one after the other end training", low=1)
    ema_decay: float = option(
        0.9995,
        "decay of the moving average that is evaluated; 0: the parameters themselves",
        low=0,
        high=0.9999999,
        source="DiffuPose's release: 0.995 every 10 steps, which is as slow",
    )
    ema_kind: Literal["grown", "constant"] = option(
        "grown", "the decay grows to its value, or is 'constant' after `ema_start`"
    )
    ema_every: int = option(1, "steps between two updates of the average", low=1)
    ema_start: int = option(0, "step up to which the average is a copy", low=0)
    log_every: int = option(100, "steps between two lines of the log", low=1)
    validate_every: int = option(1000, "steps between two validations; 0: those of `validate_epochs`", low=0)
    validate_epochs: int = option(1, "epochs between two validations, where `validate_every` is 0", low=1)
    checkpoint_every: int = option(1000, "steps between two checkpoints; 0: one after every validation", low=0)
    keep: int = option(3, "checkpoints that are kept", low=1)
    valid_frames: int = option(2048, "frames of the valid split, evenly spread, that are measured", low=1)
    valid_hypotheses: int = option(1, "hypotheses per frame in validation", low=1)
    init_from: str = option("", "work directory whose best weights training starts from, with a new optimiser")
    distil: str = option(
        "",
        "work directory of a teacher whose hypotheses are learned to be drawn in fewer steps; training starts from it",
    )
    distil_steps: int = option(20, "reverse steps of the teacher, by DDIM without noise", low=1)
    distributed: bool = option(False, "join the processes of a cluster (TPU pod, SLURM, MPI, Kubernetes)")

    def check(self) -> None:
        """Whatever happens between steps happens between dispatches."""
        for name in ("steps", "log_every", "validate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value % self.inner_steps:
                raise OptionError(name, f"a multiple of training.inner_steps={self.inner_steps}", value)
        if self.distil and self.init_from:
            raise OptionError(
                "init_from", "nothing with training.distil, which starts from its teacher", self.init_from
            )
        if not self.steps and not self.epochs:
            raise OptionError("steps", "at least 1 with training.epochs=0", self.steps)

    def count_epochs(self, windows: int) -> TrainingOptions:
        """The same options with steps in place of epochs of so many training windows.

        An epoch is rounded to a multiple of `inner_steps`.
        """
        epoch = max(1, round(windows / self.batch_size / self.inner_steps)) * self.inner_steps
        validate_every = self.validate_every or self.validate_epochs * epoch
        return dataclasses.replace(
            self,
            steps=self.steps or self.epochs * epoch,
            decay_every=self.decay_every or self.decay_epochs * epoch,
            validate_every=validate_every,
            checkpoint_every=self.checkpoint_every or validate_every,
        )


@dataclasses.dataclass(frozen=True)
class EvaluationOptions(Options):
    """How `evaluate` measures where its flags do not say otherwise."""

    protocol: str = option(
        "", "a name of `evaluation.protocols`; empty: that of the benchmark whose layout the data have"
    )
    hypotheses: int = option(10, "hypotheses per frame", low=1)
    flip: Flip = option(
        "half",
        "the mirrored input: not used ('none'), that of every second hypothesis ('half'), or averaged with the input, "
        "in the method's own way ('average')",
        source="half: ours, it keeps the distribution; average: the papers that flip",
    )
    noise: Noise = option(
        "frame", "every frame has noise of its own, or a hypothesis keeps its noise through a whole 'clip'"
    )
    stride: int = option(
        1, "every stride-th frame of each clip is measured, from a first one drawn for each clip", low=1, unit="frames"
    )
    batch_size: int = option(256, "most windows per device and compiled call", low=1)
    memory: float = option(
        0.0,
        "what a compiled call may need on a device: windows and hypotheses at a time are as many as fit. 0: a quarter "
        "of an accelerator's memory, 0.03 GB on CPU",
        low=0,
        unit="GB",
    )


SECTIONS: dict[str, type[Options]] = {
    "data": DataOptions,
    "diffusion": DiffusionOptions,
    "training": TrainingOptions,
    "evaluation": EvaluationOptions,
}
