"""What the front door of the package offers; `__init__.py` loads it when it is first used."""

from diffpose_jax.config import Options as Options
from diffpose_jax.config import option as option
from diffpose_jax.data.archives import load_archive as load_archive
from diffpose_jax.data.archives import save_archive as save_archive
from diffpose_jax.data.clips import Clip as Clip
from diffpose_jax.data.clips import ClipSet as ClipSet
from diffpose_jax.data.sets.keypoints import read_keypoints as read_keypoints
from diffpose_jax.data.windows import Batch as Batch
from diffpose_jax.errors import UserError as UserError
from diffpose_jax.evaluate import evaluate as evaluate
from diffpose_jax.lifters.base import Aux as Aux
from diffpose_jax.lifters.base import Lifter as Lifter
from diffpose_jax.lifters.base import Sampling as Sampling
from diffpose_jax.mixtures.fitting import FitOptions as FitOptions
from diffpose_jax.mixtures.fitting import fit_mixture as fit_mixture
from diffpose_jax.mixtures.fitting import fit_mixtures as fit_mixtures
from diffpose_jax.mixtures.mixture import Mixture as Mixture
from diffpose_jax.model import Model as Model
from diffpose_jax.model import Result as Result
from diffpose_jax.model import load as load
from diffpose_jax.registry import build_lifter as build_lifter
from diffpose_jax.registry import config_for as config_for
from diffpose_jax.skeleton import Skeleton as Skeleton
from diffpose_jax.skeleton import get_skeleton as get_skeleton
from diffpose_jax.training.loop import train as train

__version__: str
