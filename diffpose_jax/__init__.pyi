"""What the front door of the package offers; `__init__.py` loads it when it is first used."""

from .config import Options as Options
from .config import option as option
from .data.archives import load_archive as load_archive
from .data.archives import save_archive as save_archive
from .data.clips import Clip as Clip
from .data.clips import ClipSet as ClipSet
from .data.sets.keypoints import read_keypoints as read_keypoints
from .data.sets.keypoints import read_people as read_people
from .data.windows import Batch as Batch
from .errors import UserError as UserError
from .evaluate import evaluate as evaluate
from .exports.files import save_exports as save_exports
from .lifted_video import LiftOptions as LiftOptions
from .lifted_video import lift_people as lift_people
from .lifters.base import Aux as Aux
from .lifters.base import Lifter as Lifter
from .lifters.base import Sampling as Sampling
from .mixtures.fitting import FitOptions as FitOptions
from .mixtures.fitting import fit_mixture as fit_mixture
from .mixtures.fitting import fit_mixtures as fit_mixtures
from .mixtures.mixture import Mixture as Mixture
from .model import Model as Model
from .model import Result as Result
from .model import load as load
from .people import FilmedPeople as FilmedPeople
from .people import LiftedPerson as LiftedPerson
from .people import LiftedVideo as LiftedVideo
from .registry import build_lifter as build_lifter
from .registry import config_for as config_for
from .skeleton import Skeleton as Skeleton
from .skeleton import get_skeleton as get_skeleton
from .training.loop import train as train
from .video.finding import find_people as find_people
from .video.frames import open_frames as open_frames
from .viz.overlay import write_overlay as write_overlay
from .viz.page.notebook import show_page as show_page
from .viz.page.writing import write_page as write_page

__version__: str
