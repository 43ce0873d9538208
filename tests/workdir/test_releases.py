"""Releases are the work directory in small: the same weights within half precision, told by name, safe from damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import diffpose_jax as dp
from diffpose_jax import calibrate as calibrate_program
from diffpose_jax import cli
from diffpose_jax.calibrate import calibrate
from diffpose_jax.command_line import parse
from diffpose_jax.errors import UserError
from diffpose_jax.evaluate import evaluate
from diffpose_jax.records import write_record
from diffpose_jax.workdir import releases
from diffpose_jax.workdir.directory import read_config
from diffpose_jax.workdir.trained import Trained, load_trained


@pytest.fixture(scope="module")
def trained(diffupose_workdir) -> Trained:
    return load_trained(diffupose_workdir)


def write(workdir: Path, directory: Path, trained: Trained) -> Path:
    return releases.write_release(workdir, directory, trained.config, trained.variables, trained.step)


@pytest.fixture
def release(diffupose_workdir, trained, tmp_path) -> Path:
    return write(diffupose_workdir, tmp_path / "shipped" / "tiny", trained)


@pytest.fixture
def shipped(release, monkeypatch) -> Path:
    """The release, as one that comes with the package."""
    monkeypatch.setattr(releases, "_SHIPPED", release.parent)
    return release


def test_a_release_gives_the_work_directorys_weights_within_half_precision(release, trained):
    found = load_trained(release)
    assert found.step == trained.step == 7
    assert found.config == trained.config
    assert found.lifter == trained.lifter
    for (place, leaf), (_, expected) in zip(
        *(jax.tree_util.tree_leaves_with_path(one.variables) for one in (found, trained)), strict=True
    ):
        assert leaf.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(leaf, expected, rtol=2**-11, atol=1e-7, err_msg=str(place))


def test_what_belongs_to_the_weights_comes_along_and_nothing_of_an_earlier_release_stays(
    diffupose_workdir, trained, tmp_path
):
    workdir, directory = tmp_path / "workdir", tmp_path / "release"
    workdir.mkdir()
    (workdir / "calibration.json").write_text('{"step": 7, "temperature": 1.5}')
    (workdir / "card.md").write_text("# Tiny\n")
    (workdir / "metrics.jsonl").write_text("{}\n")
    write(workdir, directory, trained)
    names = ["calibration.json", "card.md", "config.json", "release.json", "weights.npz"]
    assert sorted(path.name for path in directory.iterdir()) == names
    assert load_trained(directory).temperature == 1.5
    write(diffupose_workdir, directory, trained)
    assert sorted(path.name for path in directory.iterdir()) == names[2:]
    assert load_trained(directory).temperature is None


def test_weights_beyond_half_precision_are_not_released(diffupose_workdir, trained, tmp_path):
    large = jax.tree.map(lambda leaf: 1e6 + leaf, trained.variables)
    with pytest.raises(UserError, match="expected weights within half precision, found "), np.errstate(over="ignore"):
        write(diffupose_workdir, tmp_path / "large", trained._replace(variables=large))


def refused(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_trained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_flipped_byte_is_told(release):
    weights = bytearray((release / "weights.npz").read_bytes())
    weights[len(weights) // 2] ^= 1
    (release / "weights.npz").write_bytes(weights)
    assert "weights.npz: expected the weights with digest" in refused(release)


def test_a_network_of_another_size_is_told(release):
    config = read_config(release)
    config.lifter.width = 64
    (release / "config.json").write_text(config.to_json())
    assert "config.json: expected the config of the release, found another" in refused(release)
    record = {"step": 7, "weights": hashlib.sha256((release / "weights.npz").read_bytes()).hexdigest()}
    write_record(release / "release.json", "release", record)
    assert "weights.npz: expected batch_stats/" in (message := refused(release))
    assert "of shape" in message


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"step": "seven", "sha256": ""}', b"\xff\xfe"])
def test_a_record_that_is_none_is_told(release, record):
    (release / "release.json").write_bytes(record if isinstance(record, bytes) else record.encode())
    assert "release.json: expected the record of a release" in refused(release)


def test_weights_without_record_or_config_are_told(release):
    (release / "release.json").unlink()
    assert "release.json: expected the record of a release" in refused(release)
    (release / "config.json").unlink()
    assert "config.json" in refused(release)


def test_a_shipped_release_has_a_name(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert releases.shipped_releases() == {"tiny": shipped}
    for name in ("pretrained:tiny", "tiny"):
        assert releases.locate(name) == shipped
        assert releases.is_shipped(name)
        assert dp.load(name).name == "tiny"
    assert "expected one of tiny, found 'huge'" in refused("pretrained:huge")
    Path("tiny").mkdir()  # one's own folder comes first, unless the name says otherwise
    assert releases.locate("tiny") == Path("tiny")
    assert releases.locate("pretrained:tiny") == shipped
    assert not releases.is_shipped("tiny")


def test_a_package_without_releases_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "_SHIPPED", tmp_path / "nowhere")
    with pytest.raises(UserError, match="expected one of none in this package, found 'tiny'"):
        releases.locate("pretrained:tiny")


@pytest.mark.slow
def test_a_release_lifts_like_its_work_directory(shipped, diffupose_workdir):
    pixels = np.random.default_rng(0).uniform(100, 700, size=(4, 17, 2))
    ours, theirs = (
        dp.load(one).lift(pixels, layout="h36m17", image_size=(1000, 800), hypotheses=2)
        for one in ("pretrained:tiny", diffupose_workdir)
    )
    np.testing.assert_allclose(ours.hypotheses, theirs.hypotheses, atol=0.02)


def test_a_copy_can_be_calibrated_and_the_packages_own_stays_as_it_is(shipped, tmp_path):
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    copy = releases.copy_release("pretrained:tiny", tmp_path / "mine")
    (copy / "calibration.json").write_text('{"step": 7, "temperature": 1.5}')
    assert load_trained(copy).temperature == 1.5
    assert releases.copy_release("pretrained:tiny", copy) == copy  # again, over itself
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before
    for write_there in (calibrate, evaluate):
        with pytest.raises(UserError, match="pretrained:tiny"):
            write_there("pretrained:tiny", data="synthetic")


def test_a_copy_does_not_replace_what_was_trained(shipped, diffupose_workdir):
    before = (diffupose_workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"expected a directory for a copy of pretrained:tiny, found a work directory"):
        releases.copy_release("pretrained:tiny", diffupose_workdir)
    assert (diffupose_workdir / "config.json").read_bytes() == before


# --- the flags of all programs


def chosen(*arguments: str, default: str | None = None) -> str:
    values = flags.FlagValues()
    cli.define_model(values)
    parse(["program", *arguments], values)
    return cli.chosen_model(values, default)


def test_a_model_is_chosen_by_its_work_directory_or_its_name():
    assert chosen("--workdir=runs/a") == "runs/a"
    assert chosen("--pretrained=tiny") == "pretrained:tiny"
    assert chosen(default="pretrained:sequence") == "pretrained:sequence"
    assert chosen("--pretrained=tiny", default="pretrained:sequence") == "pretrained:tiny"
    with pytest.raises(UserError, match="expected --workdir or --pretrained, found both"):
        chosen("--workdir=runs/a", "--pretrained=tiny")
    with pytest.raises(UserError, match="--workdir: required, or --pretrained, found none"):
        chosen()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained=tiny"], "--output: required, found none"),
        (["--pretrained=huge", "--output={folder}"], "expected one of tiny, found 'huge'"),
        (["--pretrained=tiny", "--workdir=runs/a"], "found both"),
    ],
)
def test_what_calibrate_needs_of_a_release_is_one_line(shipped, tmp_path, arguments, message, capfd):
    values = flags.FlagValues()
    calibrate_program.define_flags(values)
    argv = ["calibrate", *(argument.format(folder=tmp_path / "out") for argument in arguments)]
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda positional: calibrate_program.main(positional, values), argv, values)
    assert exit_.value.code == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_calibrating_a_release_makes_a_calibrated_copy(shipped, tmp_path, monkeypatch, capsys):
    fitted = {"step": 7, "temperature": 1.25, "split": "valid", "seconds": 0.0}
    seen = []

    def calibrate_at_once(workdir, **options):
        seen.append(options["data"])
        (Path(workdir) / "calibration.json").write_text(json.dumps(fitted))
        return fitted

    monkeypatch.setattr(calibrate_program, "calibrate", calibrate_at_once)
    monkeypatch.setattr(calibrate_program, "describe", lambda found: [f"temperature {found['temperature']}"])
    values = flags.FlagValues()
    calibrate_program.define_flags(values)
    parse(["calibrate", "--pretrained=tiny", f"--output={tmp_path / 'mine'}", "--data=synthetic"], values)
    assert calibrate_program.main(["calibrate"], values) == 0
    assert seen == ["synthetic"]
    assert load_trained(tmp_path / "mine").temperature == 1.25
    assert load_trained("pretrained:tiny").temperature is None
    assert str(tmp_path / "mine") in capsys.readouterr().out


def test_a_release_has_the_version_of_its_context_that_saw_everybody_and_no_other():
    config = ConfigDict({"context": {"name": "residual_mlp", "folds": [["A"], ["B"]]}, "lifter": {}})
    full, folds = {"kernel": np.ones(3)}, {"kernel": np.ones((2, 3))}
    variables = {"params": {"x": np.zeros(1)}, "frozen": {"context": {"full": full, "folds": folds}, "spread": 1.0}}
    changed, kept = releases.drop_folds(config, variables)
    assert kept == {"params": variables["params"], "frozen": {"context": full, "spread": 1.0}}
    assert "folds" not in changed.context
    assert config.context.folds == [["A"], ["B"]]
    assert releases.drop_folds(changed, kept) == (changed, kept)
