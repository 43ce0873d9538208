"""Checkpoints are complete or absent; the newest that can be read comes back, a damaged one is moved aside."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of


def create(value: float = 0.0) -> dict:
    return {"weight": jnp.full((2, 3), value, jnp.float32), "step": jnp.int32(value)}


@pytest.fixture
def checkpoints(tmp_path):
    """Steps 1, 2 and 3, of which two are kept."""
    found = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        found.save(step, create(step), {"error": step / 2})
    found.wait()
    yield found
    found.close()


def damage(step: Path) -> None:
    """Cuts the arrays of a checkpoint in half."""
    for file in step.rglob("*"):
        if file.is_file() and "d" in file.parts:
            os.truncate(file, file.stat().st_size // 2)


def test_the_newest_comes_back_with_its_note(checkpoints):
    step, tree, note = checkpoints.restore_newest(template_of(create))
    assert (step, note) == (3, {"error": 1.5})
    jax.tree.map(np.testing.assert_array_equal, tree, create(3))
    assert checkpoints.steps() == [3, 2]


def test_a_step_that_is_saved_stays_as_it_is_and_later_ones_can_be_replaced(checkpoints):
    checkpoints.save(3, create(30))
    assert float(checkpoints.restore_newest(template_of(create))[1]["weight"][0, 0]) == 3
    checkpoints.replace(2, create(20))
    assert checkpoints.steps() == [2]
    assert float(checkpoints.restore_newest(template_of(create))[1]["weight"][0, 0]) == 20


def test_a_damaged_one_is_moved_aside_and_the_one_before_it_comes_back(checkpoints, tmp_path):
    damage(tmp_path / "checkpoints" / "3")
    step, tree, _ = checkpoints.restore_newest(template_of(create))
    assert (step, float(tree["weight"][0, 0])) == (2, 2)
    assert (tmp_path / "damaged" / "checkpoints-3").is_dir()
    checkpoints.save(3, create(30))
    checkpoints.wait()
    assert checkpoints.steps() == [3, 2]


@pytest.mark.parametrize(("note", "used"), [("{}", 3), ("null", 2), ("[]", 2), ("", 2), ("[" * 100_000, 2)])
def test_a_note_without_anything_in_it_is_one_of_before_and_what_is_none_is_damaged(checkpoints, tmp_path, note, used):
    (tmp_path / "checkpoints" / "3" / "note" / "metadata").write_text(note)
    step, tree, found = checkpoints.restore_newest(template_of(create))
    assert (step, float(tree["weight"][0, 0])) == (used, used)
    assert found == ({} if used == 3 else {"error": 1.0})


def test_where_all_are_damaged_they_are_named_and_kept(checkpoints, tmp_path):
    for step in (2, 3):
        damage(tmp_path / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"none of the checkpoints \[3, 2\] can be read"):
        checkpoints.restore_newest(template_of(create))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}


def test_variables_of_another_shape_are_refused(checkpoints):
    with pytest.raises(UserError, match="none of the checkpoints"):
        checkpoints.restore_newest(template_of(lambda: {"weight": jnp.zeros((4, 3)), "step": jnp.int32(0)}))


def test_nothing_comes_back_where_nothing_was_saved(tmp_path):
    empty = Checkpoints(tmp_path / "checkpoints", keep=1)
    assert empty.restore_newest(template_of(create)) is None
    empty.close()
