"""A checkpoint that is not what was saved is noticed, whichever bit of it changed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.errors import UserError
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of
from diffpose_jax.workdir.seals import check_config, digest_leaves, open_seal, seal

CONFIG = ConfigDict({"lifter": {"name": "diffupose", "width": 32}, "training": {"learning_rate": 1.0}})


def create(value: float = 0.0) -> dict:
    return {"weight": jnp.full((64, 32), value, jnp.float32), "count": jnp.int32(7)}


def test_a_leaf_has_another_digest_if_its_value_type_or_shape_differs():
    leaves = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32)]
    leaves += [np.full((2, 3), np.float32(1e-45)), np.zeros((2, 3), np.float32)]
    found = [digest_leaves({"w": leaf})["['w']"] for leaf in leaves]
    assert len(set(found)) == 4
    assert found[0] == found[-1]


def test_a_tree_that_differs_in_one_bit_is_named():
    tree = {name: np.asarray(leaf) for name, leaf in create(1.0).items()}
    sealed = open_seal(3, seal(3, tree, {"best": 1.5}, CONFIG))
    assert sealed.note == {"best": 1.5}
    sealed.verify(tree)
    changed = tree["weight"].copy()
    changed.view(np.uint8).reshape(-1)[77] ^= 4
    with pytest.raises(ValueError, match=r"\['weight'\] is not what was saved"):
        sealed.verify({**tree, "weight": changed})


def test_a_note_that_was_changed_or_belongs_to_another_step_is_refused():
    note = seal(380, create(), {"best_mpjpe": 81.5}, CONFIG)
    with pytest.raises(ValueError, match="that of step 380"):
        open_seal(400, note)
    with pytest.raises(ValueError, match="not what was saved"):
        open_seal(380, {**note, "note": {"best_mpjpe": 8.15}})


def test_a_note_of_an_earlier_version_is_taken_as_it_is():
    sealed = open_seal(3, {"best_mpjpe": 1.0})
    assert sealed.note == {"best_mpjpe": 1.0}
    sealed.verify(create())


def test_another_network_is_refused_and_another_learning_rate_is_not():
    saved = CONFIG.to_dict()
    other = ConfigDict({**saved, "training": {"learning_rate": 2.0}})
    check_config(other, saved, "best/7")
    other.lifter.width = 64
    with pytest.raises(UserError, match=r"best/7: was saved with lifter\.width=32, the config now says 64"):
        check_config(other, saved, "best/7")


def flip_bits(folder, rng, count):
    """Flips one bit of a random file, restores it, and so on; yields after each flip."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.array([path.stat().st_size for path in files], float)
    for _ in range(count):
        path = files[rng.choice(len(files), p=sizes / sizes.sum())]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        before = path.read_bytes()
        path.write_bytes(content)
        yield path
        path.write_bytes(before)


def test_no_flipped_bit_gives_other_numbers(tmp_path):
    kept = Checkpoints(tmp_path / "best", 1, CONFIG)
    tree = create()
    tree["weight"] = jnp.asarray(np.random.default_rng(1).standard_normal((64, 32)), jnp.float32)
    kept.save(7, tree, {"error": 1.5})
    kept.close()
    refused = 0
    for _ in flip_bits(tmp_path / "best", np.random.default_rng(0), 20):
        reader = Checkpoints(tmp_path / "best", 1, CONFIG)
        try:
            found = reader.restore_newest(template_of(create), set_aside=False)
        except UserError:
            refused += 1
            continue
        finally:
            reader.close()
        assert found is not None
        step, restored, note = found
        assert (step, note) == (7, {"error": 1.5})
        np.testing.assert_array_equal(np.asarray(restored["weight"]), np.asarray(tree["weight"]))
    assert refused >= 5


def test_a_copied_step_gives_way_to_the_one_before(tmp_path, caplog):
    import shutil

    kept = Checkpoints(tmp_path / "checkpoints", 3, CONFIG)
    kept.save(380, create(1.0))
    kept.close()
    shutil.copytree(tmp_path / "checkpoints" / "380", tmp_path / "checkpoints" / "400")
    again = Checkpoints(tmp_path / "checkpoints", 3, CONFIG)
    found = again.restore_newest(template_of(create))
    again.close()
    assert found is not None
    assert found[0] == 380
    assert "checkpoints/400 cannot be used (it is that of step 380)" in caplog.text
