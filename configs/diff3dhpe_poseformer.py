"""Diff3DHPE-P (Zhou et al., ICCV workshops 2023): the middle frame by diffusion, PoseFormer as its network.

    python -m diffpose_jax.train --config configs/diff3dhpe_poseformer.py:synthetic,small --workdir runs/p
    python -m diffpose_jax.train --config configs/diff3dhpe_poseformer.py:human36m,cpn,81 --workdir runs/p_cpn

Published for Human3.6M, 81 frames: CPN 45.3 mm, ground-truth 2D 31.9. The release has no code for it; where the
network is told the step is our reading;
not reproduced here yet, for want of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The paper's recipe, or a small one."""
    config, chosen = start("diff3dhpe", "diff3dhpe_poseformer", argument)
    config.lifter.update(backbone="poseformer", width=32, num_layers=4)
    config.evaluation.update(hypotheses=1)
    # Poses are divided by this; the release takes the largest coordinate of train and test together.
    config.lifter.scale = 1.2
    # The release does not tell the network the step on MPI-INF-3DHP.
    config.lifter.step_embedding = chosen.dataset != "mpi_inf_3dhp"
    if chosen.size:
        set_frames(config, chosen.frames or 9)
        config.lifter.update(width=16, num_layers=2, drop_path=0.0)
        train_small(config, 4000, 64, 1e-3)
        return config
    frames = chosen.frames or (27 if chosen.dataset == "mpi_inf_3dhp" else 81)
    set_frames(config, frames)
    train_epochs(config, 200, 512, mirrored=True, decay_rate=0.99)
    # The learning rate is that of the release's commands, the paper's supplement is not at hand. The paper's loss
    # weight and noise estimate are the default, the release's are lifter.released_weight and lifter.released_eps.
    config.training.update(learning_rate=4e-4, weight_decay=0.1, ema_decay=0.0)
    config.evaluation.flip = "average"
    return config
