"""An exported sampler gives the numbers of the model it is of, in a process that has jax and not this package."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from diffpose_jax import cli
from diffpose_jax import export as program
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.model import load
from diffpose_jax.registry import config_for

pytestmark = pytest.mark.slow

# What docs/exports.md shows; in `sys.modules`, None stands for a package that is not there.
USE = """
import sys
sys.modules.update(dict.fromkeys(("diffpose_jax", "flax", "optax", "ml_collections")))
import jax, numpy as np
from jax import export
folder = sys.argv[1]
sampler = jax.jit(export.deserialize(open(folder + "/sampler.jaxexport", "rb").read()).call)
with np.load(folder + "/inputs.npz") as inputs:
    keypoints, scores, focal = (inputs[name] for name in ("keypoints", "scores", "focal"))
found = {}
for count in (2, 5):
    part = slice(0, count)
    found[str(count)] = sampler(keypoints[part], scores[part], focal[part], np.uint32(3), np.zeros(count, np.int32))
np.savez(folder + "/found.npz", **found)
"""


def run(*arguments: object) -> int:
    values = flags.FlagValues()
    program.define_flags(values)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda argv: program.main(argv, values), ["export", *map(str, arguments)], values)
    return exit_.value.code


@pytest.fixture(scope="module")
def person_workdir(tmp_path_factory, untrained):
    """A tiny lifter with the person-centred view, told of hidden joints, with a calibration of two hypotheses."""
    config = config_for("diffupose")
    config.data.view = "person"
    config.lifter.update({"width": 32, "num_layers": 1, "variant": "mlp", "visibility": "confidence"})
    config.diffusion.steps = 3
    path = untrained(tmp_path_factory.mktemp("runs") / "person", config)
    scales = {"joints": [1.5] * 17, "kinds": dict.fromkeys(("sharp", "wide", "ambiguous", "hidden"), 1.0)}
    record = {"step": 7, "temperature": 1.25, "scales": scales, "hypotheses": 4}
    (path / "calibration.json").write_text(json.dumps(record))
    return path


def test_an_exported_sampler_gives_the_hypotheses_of_the_model_without_the_package(person_workdir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    keypoints = rng.normal(0, 0.3, (5, 17, 2)).astype(np.float32)
    scores = np.where(rng.random((5, 17)) < 0.2, 0, 0.9).astype(np.float32)
    model = load(person_workdir)
    # So slow that nothing is interpolated from frame to frame, which an exported sampler does not do.
    clips = ClipSet.build([Clip(keypoints, None, None, "person", "clip", fps=5.0, scores=scores)], model.skeleton)
    wanted = model.lift(clips, hypotheses=4, seed=3, focal=1.7).hypotheses

    assert run("--workdir", person_workdir, "--output", tmp_path / "sampler.jaxexport", "--hypotheses", 4) == 0
    assert "4 hypotheses" in capsys.readouterr().out
    hidden = np.where(scores[..., None] > 0, keypoints, np.nan)
    focal = np.full(5, 1.7, np.float32)
    np.savez(tmp_path / "inputs.npz", keypoints=hidden[:, None], scores=scores[:, None], focal=focal)
    subprocess.run([sys.executable, "-c", USE, str(tmp_path)], check=True, cwd=tmp_path)

    with np.load(tmp_path / "found.npz") as found:
        for count in (2, 5):
            assert found[str(count)].shape == (4, count, 1, 17, 3)
            np.testing.assert_allclose(found[str(count)][:, :, 0].swapaxes(0, 1), wanted[:count], atol=1e-5)
    described = json.loads((tmp_path / "sampler.json").read_text())
    assert described["temperature"] == 1.25
    assert described["joints"] == list(model.skeleton.joints)


def test_what_cannot_be_exported_is_one_line(person_workdir):
    model = load(person_workdir)
    with pytest.raises(UserError, match=r"platforms: expected some of cpu, .*, found abacus"):
        program.export_sampler(model, platforms=("cpu", "abacus"))
    with pytest.raises(UserError, match="hypotheses: expected at least 1, found 0"):
        program.export_sampler(model, 0)
    config = config_for("diffpose")
    config.data.mixtures = True
    of_heatmaps = model.trained._replace(config=config)
    with pytest.raises(UserError, match=r"expected a lifter of keypoints, found diffpose on mixtures"):
        program.export_sampler(type(model)(of_heatmaps, "heatmaps"))
