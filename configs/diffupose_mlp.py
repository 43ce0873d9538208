"""DiffuPose with a residual MLP as its denoiser: a fifteenth of the modulated GCN's work, for real-time rates.

    python -m diffpose_jax.train --config configs/diffupose_mlp.py:synthetic,small --workdir runs/diffupose_mlp

Takes the arguments of `configs/diffupose.py`. No paper has this denoiser. It sees the timestep in every block, so that
it may predict the pose itself, with squared errors, and learns in a third of the steps; poses may reach 1.5 m from the
root, which raised arms do. `day` is the reference model of single frames, for people as any camera sees them.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import config_beside


def get_config(argument: str = "synthetic") -> ConfigDict:
    """DiffuPose's recipe with the other denoiser."""
    config = config_beside(__file__, "diffupose")(argument)
    config.name = f"diffupose_mlp {argument}"
    config.lifter.update(variant="mlp", width=512, scale=0.25, norm="square")
    config.diffusion.update(predict="x0", clip=1.5, sampler="ddim", sampling_steps=10)
    config.training.learning_rate = 1e-3
    return config
