"""Which frames are measured, and how a report groups them."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.mpi_inf_3dhp import mpi_inf_3dhp_cameras
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.measure import Measured, baseline_rows
from diffpose_jax.skeleton import H36M_16, H36M_17, MPI_INF_3DHP_17

ROOT = MPI_INF_3DHP_17.root
LENGTHS = (40, 10)


@pytest.fixture
def clips() -> ClipSet:
    rng = np.random.default_rng(0)
    parts = []
    for number, length in enumerate(LENGTHS):
        poses = rng.normal(0, 0.3, (length, 17, 3)).astype(np.float32)
        parts.append(
            Clip(
                rng.uniform(-1, 1, (length, 17, 2)).astype(np.float32),
                poses - poses[:, ROOT : ROOT + 1],
                np.tile(np.array([0, 0, 4.0], np.float32), (length, 1)),
                subject=f"TS{number + 1}",
                action="test",
                camera=number,
                valid_frame=np.arange(length) != 3,
                activity=np.where(np.arange(length) < 8, 1, 6),
            )
        )
    return ClipSet.build(parts, MPI_INF_3DHP_17, mpi_inf_3dhp_cameras(), "3D targets: annot3")


def test_invalid_frames_are_not_measured_and_break_the_run_of_frames(clips):
    measured = Measured.of(clips, 1, "mpi_inf_3dhp")
    np.testing.assert_array_equal(measured.indices, np.delete(np.arange(50), [3, 43]))
    follows = np.asarray(measured.frames.follows)
    assert not follows[[0, 3, 39, 42]].any()
    assert follows.sum() == 48 - 4
    # TS1 has 36 frames after its invalid one: a window of 27 and a rest.
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(measured.frames.window) == 0), np.arange(3, 30))


def test_figures_of_sequences_and_activities_are_the_tools(clips):
    measured = Measured.of(clips, 1, "mpi_inf_3dhp")
    shift = np.where(np.arange(50) < 40, 0.05, 0.2).astype(np.float32)
    poses = (clips.poses + shift[:, None, None] * np.array([1, 0, 0], np.float32))[measured.indices]
    row = measured.row("mean", "mean", poses, kind="aggregation")
    assert row["by_sequence"]["TS1"]["mpjpe"] == pytest.approx(50, rel=1e-4)
    assert row["by_sequence"]["TS2"]["pck"] == 0
    assert row["sequence_average"]["mpjpe"] == pytest.approx(125, rel=1e-4)
    assert row["frame_average"]["mpjpe"] == pytest.approx((39 * 50 + 9 * 200) / 48, rel=1e-4)
    assert row["by_action"]["Stand/Walk"]["mpjpe"] == pytest.approx(125, rel=1e-4)
    assert set(row["by_action"]) == {"Stand/Walk", "Sports"}
    assert row["sequence_average"]["pck_knee"] == pytest.approx(50)
    assert row["by_joint"]["pelvis"] == pytest.approx((39 * 50 + 9 * 200) / 48, rel=1e-4)
    assert row["by_coordinate"]["y"] == pytest.approx(0, abs=1e-4)


def test_standard_needs_no_sequences(clips):
    row = Measured.of(clips, 1, "standard").row("x", "x", np.delete(clips.poses, [3, 43], axis=0), kind="baseline")
    assert "sequence_average" not in row
    assert row["frame_average"]["mpjpe"] == pytest.approx(0, abs=1e-4)
    assert row["frame_average"]["segment_std"] > 0


def test_the_notes_say_what_was_not_measured(clips):
    assert Measured.of(clips, 1, "mpi_inf_3dhp").notes() == [
        "data: 3D targets: annot3",
        "2 frames that the benchmark marks as invalid are lifted but not measured",
    ]
    sparse = Measured.of(clips, 5, "mpi_inf_3dhp")
    assert sparse.notes()[-1] == "segment std left out: it needs 27 consecutive frames, so a stride of 1"
    row = sparse.row("x", "x", clips.poses[sparse.indices], kind="baseline")
    assert row["frame_average"]["segment_std"] is None
    assert row["frame_average"]["symmetry_gap"] > 0


def test_a_lifter_of_another_layout_is_measured_on_the_joints_of_the_benchmark(clips):
    measured = Measured.of(clips.to_layout(H36M_17), 1, "mpi_inf_3dhp", clips)
    shift = np.zeros((50, 17, 3), np.float32)
    shift[:, H36M_17.joints.index("thorax"), 0] = 0.098  # where the benchmark has the neck
    row = measured.row("mean", "mean", (measured.clips.poses + shift)[measured.indices], kind="aggregation")
    assert row["sequence_average"]["mpjpe"] == pytest.approx(98 / 17, rel=1e-4)
    assert row["sequence_average"]["auc_neck"] == pytest.approx(100 * 11 / 31, rel=1e-4)
    assert row["sequence_average"]["pck"] == 100
    assert list(row["by_joint"]) == list(MPI_INF_3DHP_17.joints)
    assert row["by_joint"]["neck"] == pytest.approx(98, rel=1e-4)
    # The baselines' poses are those of the lifter's layout too.
    rows = baseline_rows(measured, measured.clips)
    assert rows[1]["sequence_average"]["mpjpe"] == pytest.approx(0, abs=1e-3)
    assert "mapped to mpi_inf_3dhp17, the layout of the protocol and of the data: neck = thorax, head = neck_nose" in (
        " ".join(measured.notes())
    )


def test_the_target_is_never_mapped_there_and_back(clips):
    """A lifter without neck/nose: the benchmark's joint 'head' is made of others for it, and measured where it is."""
    measured = Measured.of(clips.to_layout(H36M_16), 1, "mpi_inf_3dhp", clips)
    row = measured.row("mean", "mean", measured.clips.poses[measured.indices], kind="aggregation")
    wrong = [joint for joint, error in row["by_joint"].items() if error > 1e-3]
    assert wrong == ["head"]
    assert "head = 0.5 thorax + 0.5 head_top" in " ".join(measured.notes())


def test_other_data_are_refused_by_the_protocol_of_a_benchmark(clips):
    with pytest.raises(UserError, match="expected data of layout mpi_inf_3dhp17, found h36m17"):
        Measured.of(clips.to_layout(H36M_17), 1, "mpi_inf_3dhp")


def test_a_set_without_a_valid_frame_is_refused(clips):
    parts = [clips.clip(i)._replace(valid_frame=np.zeros(n, bool)) for i, n in enumerate(LENGTHS)]
    with pytest.raises(UserError, match="expected at least one valid frame to measure, found none"):
        Measured.of(ClipSet.build(parts, MPI_INF_3DHP_17), 1, "mpi_inf_3dhp")
