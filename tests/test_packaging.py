"""What the wheel contains: every package, the configs as `diffpose_jax.configs`, the mark of a typed package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from diffpose_jax.video.networks import DIGESTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_every_folder_with_modules_is_a_package_of_the_wheel():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("diffpose_jax/**/*.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert packages | {"diffpose_jax.configs"} == set(SETUPTOOLS["packages"])


def test_configs_are_a_package_of_the_wheel_with_one_source():
    assert SETUPTOOLS["package-dir"] == {"diffpose_jax.configs": "configs"}
    assert list(ROOT.glob("configs/[!_]*.py"))
    assert not (ROOT / "diffpose_jax" / "configs").exists()


def test_the_package_is_marked_as_typed():
    assert (ROOT / "diffpose_jax" / "py.typed").is_file()
    assert {"py.typed", "*.pyi"} <= set(SETUPTOOLS["package-data"]["diffpose_jax"])


def test_the_parts_of_the_page_come_with_the_package():
    page = ROOT / "diffpose_jax" / "viz" / "page"
    listed = {path for pattern in SETUPTOOLS["package-data"]["diffpose_jax.viz.page"] for path in page.glob(pattern)}
    assert listed == {path for path in page.rglob("*.*") if path.suffix in (".js", ".css", ".html", ".sh")} | {
        page / "vendor" / "THREE_LICENSE"
    }


def test_the_networks_that_find_people_are_in_the_wheel_with_their_licence():
    assert "pretrained/*/*" in SETUPTOOLS["package-data"]["diffpose_jax"]
    folder = ROOT / "diffpose_jax" / "pretrained" / "blazepose"
    assert {path.name for path in folder.iterdir()} == {*DIGESTS, "LICENSE", "NOTICE"}
    notice = (folder / "NOTICE").read_text()
    assert all(name in notice and digest in notice for name, digest in DIGESTS.items())


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/[!_]*.py")), ids=lambda path: path.stem)
def test_configs_import_nothing_that_is_not_installed_with_the_package(path):
    lines = path.read_text().splitlines()
    modules = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert modules <= {"diffpose_jax", "ml_collections", "dataclasses", "__future__"}
