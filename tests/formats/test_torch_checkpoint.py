"""PyTorch checkpoints are read as torch reads them, without torch, and nothing in them is ever executed."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_jax.errors import UserError
from diffpose_jax.formats.torch_checkpoint import Opaque, read_checkpoint

DATA = Path(__file__).parent / "data"
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def storage(count: int, key: str = "0", kind: str = "torch FloatStorage", last: bytes = b"") -> bytes:
    return (
        b"("
        + text("storage")
        + b"c"
        + kind.replace(" ", "\n").encode()
        + b"\n"
        + text(key)
        + text("cpu")
        + (number(count) + last + b"tQ")
    )


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(run: bytes, offset: int, shape: bytes, strides: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + run + number(offset) + shape + strides + b"\x89}tR"


def zipped(path: Path, body: bytes, *storages: bytes, order: bytes | None = b"little", **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, raw in enumerate(storages):
            archive.writestr(f"archive/data/{key}", raw)
    return path


def legacy(path: Path, body: bytes, *storages: np.ndarray) -> Path:
    keys = pickle.dumps([str(key) for key in range(len(storages))], 2)
    raw = b"".join(struct.pack("<q", len(run)) + run.tobytes() for run in storages)
    path.write_bytes(MAGIC + b"\x80\x02" + body + b"." + keys + raw)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_files_that_torch_wrote_are_read(form):
    found = read_checkpoint(DATA / f"tiny_{form}.pth")
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
    assert found["epoch"] == 3
    assert found["lr"] == 0.25
    assert found["optimizer"]["param_groups"] == [{"betas": (0.9, 0.999), "params": [0]}]
    assert list(found["model_pos"]) == [
        *("module.fc.weight", "module.fc.bias", "module.norm.num_batches_tracked", "module.turned")
    ]
    np.testing.assert_array_equal(found["model_pos"]["module.fc.weight"], weight)
    np.testing.assert_array_equal(found["model_pos"]["module.turned"], weight.T)
    np.testing.assert_array_equal(found["model_pos"]["module.norm.num_batches_tracked"], 7)
    np.testing.assert_array_equal(found["half"], np.array([0.5, -2], np.float16))
    np.testing.assert_array_equal(found["brain"].astype(np.float32), [1.5, -3])
    np.testing.assert_array_equal(found["double"], [1 / 3])
    np.testing.assert_array_equal(found["part"], [[4, 6], [8, 10]])
    assert found["part"].dtype == np.int32
    if form == "zip":
        assert found["random_state"] == Opaque("numpy.random._pickle.__randomstate_ctor")


@pytest.mark.parametrize(("order", "code"), [(b"little", "<f4"), (b"big", ">f4"), (None, "<f4")])
def test_byte_orders_and_archives_without_one(tmp_path, order, code):
    values = np.array([1.5, -2.25, 3e-7])
    body = tensor(storage(3), 0, numbers(3), numbers(1))
    found = read_checkpoint(zipped(tmp_path / "a.pth", body, values.astype(code).tobytes(), order=order))
    np.testing.assert_array_equal(found, values.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    strides=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    offset=st.integers(0, 20),
)
def test_any_view_is_numpy_indexing_or_refused(tmp_path_factory, shape, strides, offset):
    run, strides = np.arange(24, dtype=np.float32), strides[: len(shape)]
    index = offset + sum(
        (np.arange(size) * stride).reshape([-1 if axis == other else 1 for other in range(len(shape))])
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
    )
    path = tmp_path_factory.mktemp("views") / "a.pth"
    body = tensor(storage(24), offset, numbers(*shape), numbers(*strides))
    for write, raw in ((zipped, run.tobytes()), (legacy, run)):
        write(path, body, raw)
        if np.size(index) and np.max(index) > 23:
            with pytest.raises(UserError, match="in a storage of 24 numbers"):
                read_checkpoint(path)
        else:
            np.testing.assert_array_equal(read_checkpoint(path), run[np.minimum(index, 23)].reshape(shape))


HUGE = 1 << 40

BEYOND = {
    "a storage larger than its bytes": tensor(storage(HUGE), 0, numbers(1), numbers(1)),
    "a shape larger than its storage": tensor(storage(4), 0, numbers(HUGE), numbers(1)),
    "one number repeated without end": tensor(storage(4), 0, numbers(HUGE, HUGE), numbers(0, 0)),
    "an offset beyond the storage": tensor(storage(4), HUGE, numbers(1), numbers(1)),
    "a negative offset": tensor(storage(4), -1, numbers(1), numbers(1)),
    "a negative stride": tensor(storage(4), 3, numbers(4), numbers(-1)),
    "sizes whose product overflows": tensor(storage(4), 0, numbers(HUGE, HUGE, HUGE), numbers(1, 1, 1)),
    "an empty shape with a huge side": tensor(storage(4), 0, numbers(0, HUGE, HUGE), numbers(1, 1, 1)),
    "fewer strides than sizes": tensor(storage(4), 0, numbers(2, 2), numbers(1)),
    "a shape that is no tuple": tensor(storage(4), 0, number(4), numbers(1)),
    "a storage that is not there": tensor(storage(4, "../../../etc/passwd"), 0, numbers(4), numbers(1)),
    "one key for two storages": b"(" + storage(4) + storage(2) + b"t",
    "a tensor of a string": tensor(text("0"), 0, numbers(4), numbers(1)),
    "a string of a size beyond the file": b"X" + struct.pack("<I", 1 << 31) + b"abc",
    "bytes of a size beyond the file": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("case", BEYOND)
def test_sizes_that_are_not_there_are_one_line(tmp_path, case, form):
    run = np.zeros(4, np.float32)
    write, raw = (zipped, run.tobytes()) if form == "zip" else (legacy, run)
    with pytest.raises(UserError) as caught:
        read_checkpoint(write(tmp_path / "a.pth", BEYOND[case], raw))
    assert "a.pth: expected a PyTorch checkpoint, found a damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def call(name: str, *arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def laughs() -> bytes:
    """A tuple of two of the same tuples, forty deep: small to write, endless to print or hash."""
    return b")" + b"2\x86" * 40


OPEN = text("touched")
HOSTILE = {
    "os.system": call("os system", OPEN),
    "posix.system": call("posix system", OPEN),
    "eval": call("builtins eval", text("open('touched', 'w')")),
    "eval of Python 2": call("__builtin__ eval", text("open('touched', 'w')")),
    "getattr": call("builtins getattr", text("a"), text("b")),
    "nested in a state_dict": b"}" + text("model_pos") + b"}" + text("a") + call("os system", OPEN) + b"ss",
    "as an argument of a tensor": call("torch._utils _rebuild_tensor_v2", call("os system", OPEN)),
    "as a hook of a parameter": call("torch._utils _rebuild_parameter", numbers(1), b"\x88", call("os system", OPEN)),
    "as the key of a dictionary": b"}" + call("os system", OPEN) + b"Ns",
    "as an element of an OrderedDict": call("collections OrderedDict", b"]" + call("os system", OPEN) + b"a"),
    "as the state of a dictionary": b"}" + call("os system", OPEN) + b"b",
    "as a class in a storage": storage(4, kind="os system"),
    "as another persistent object": b"(" + text("module") + b"cos\nsystem\n" + OPEN + OPEN + b"tQ",
    "a persistent object by name": b"Pstorage\n",
    "by name on the stack": text("os") + text("system") + b"\x93" + OPEN + b"\x85R",
    "an instance": b"(" + OPEN + b"ios\nsystem\n",
    "an object": b"(cos\nsystem\n" + OPEN + b"o",
    "a new object": b"csubprocess\nPopen\n" + OPEN + b"\x85\x81",
    "a new object with keywords": b"csubprocess\nPopen\n)}\x92",
    "an extension": b"\x82\x01",
    "a callable that the pickle made": b"}" + OPEN + b"\x85R",
    "a string called": text("os.system") + OPEN + b"\x85R",
    "a torch function that loads": call("torch load", OPEN),
    "a torch storage loader": call("torch.storage _load_from_bytes", OPEN),
    "a tensor subclass": call("torch._tensor _rebuild_from_type_v2", OPEN, OPEN, b")", b"}"),
    "a name through a package": text("torch._utils") + text("warnings.sys.modules") + b"\x93",
    "a name through a random state": call("numpy.random os.system", OPEN) + b"cos\nsystem\n" + OPEN + b"\x85R",
    "an array of objects": call("numpy.core.multiarray scalar", call("numpy dtype", text("O8")), OPEN),
    "the state of a string": OPEN + b"}" + OPEN + OPEN + b"sb",
    "the state of a class": b"ccollections\nOrderedDict\n}" + OPEN + OPEN + b"sb",
    "a key without end": b"}" + laughs() + b"Ns",
    "a key without end in pairs": call("collections OrderedDict", b"]" + laughs() + b"N\x86a"),
    "a dictionary copied without end": (
        b"(ccollections\nCounter\nq\x00(}(" + b"".join(number(key) + b"N" for key in range(1000))
        + b"utq\x01R" + b"h\x00h\x01R" * 1000 + b"l"
    ),
    "a shape without end": b"cnumpy.core.multiarray\n_reconstruct\n)R(" + laughs() + b"NNNtb",
    "an encoding without end": call("_codecs encode", OPEN, laughs()),
    "a global named without end": laughs() + OPEN + b"\x93",
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_checkpoint_is_refused_and_nothing_runs(tmp_path, monkeypatch, case, form):
    monkeypatch.chdir(tmp_path)
    run = np.zeros(4, np.float32)
    write, raw = (zipped, run.tobytes()) if form == "zip" else (legacy, run)
    imported = set(sys.modules)
    with pytest.raises(UserError) as caught:
        read_checkpoint(write(tmp_path / "a.pth", HOSTILE[case], raw))
    assert "a.pth: refused: its pickle holds" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert set(sys.modules) == imported


def test_a_hostile_pickle_before_the_tensors_of_a_legacy_file(tmp_path):
    path = tmp_path / "a.pth"
    for position in range(3):
        parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        parts[position] = parts[position][:-1] + b"0" + call("os system", OPEN) + b"."
        path.write_bytes(b"".join(parts) + pickle.dumps({}, 2) + pickle.dumps([], 2))
        with pytest.raises(UserError, match=r"forbidden global 'os\.system'"):
            read_checkpoint(path)


def test_shared_parts_are_resolved_once(tmp_path):
    found = read_checkpoint(zipped(tmp_path / "a.pth", laughs()))
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == ()


def test_a_list_that_contains_itself_is_read_and_a_very_deep_one_refused(tmp_path):
    found = read_checkpoint(zipped(tmp_path / "a.pth", b"]q\x00h\x00a"))
    assert found[0] is found
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(zipped(tmp_path / "b.pth", b"]" * 100_000 + b"a" * 99_999))


def test_a_compressed_archive_is_not_inflated(tmp_path):
    body = tensor(storage(1 << 24), 0, numbers(1 << 24), numbers(1))
    path = zipped(tmp_path / "a.pth", body, bytes(1 << 26), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed or encrypted member"):
        read_checkpoint(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_truncated_file_is_one_line_wherever_it_ends(tmp_path, form):
    whole = (DATA / f"tiny_{form}.pth").read_bytes()
    path = tmp_path / "a.pth"
    for size in {*range(0, len(whole), 13), *range(60), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.pth: expected a PyTorch checkpoint, found") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), form=st.sampled_from(["zip", "legacy"]))
def test_a_changed_byte_never_escapes_as_another_error(tmp_path_factory, position, value, form):
    raw = bytearray((DATA / f"tiny_{form}.pth").read_bytes())
    raw[int(position * len(raw))] = value
    path = tmp_path_factory.mktemp("changed") / "a.pth"
    path.write_bytes(raw)
    with contextlib.suppress(UserError):
        read_checkpoint(path)


def test_a_flipped_bit_in_the_numbers_of_an_archive_is_noticed(tmp_path):
    path = tmp_path / "a.pth"
    raw = bytearray((DATA / "tiny_zip.pth").read_bytes())
    raw[raw.index(np.array([-1, 0.5], np.float32).tobytes())] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"checksum of '.*/data/.*' is wrong"):
        read_checkpoint(path)


OTHERS = {
    "no such file": (None, "found no such file"),
    "empty": (b"", "an empty file"),
    "text": (b"hello", "neither a zip archive nor PyTorch's magic number"),
    "web page": (b"<!DOCTYPE html><html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "plain pickle": (pickle.dumps({"a": 1}), "neither a zip archive nor"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "a tar archive"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_named(tmp_path, case):
    content, message = OTHERS[case]
    path = tmp_path / "a.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


def test_other_archives_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="found another zip archive"):
        read_checkpoint(tmp_path / "a.npz")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/constants.pkl", b"\x80\x02).")
    (tmp_path / "b.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="a TorchScript program"):
        read_checkpoint(tmp_path / "b.pt")


def test_what_torch_saves_comes_back(tmp_path):
    torch = pytest.importorskip("torch")
    run = torch.arange(24.0).view(2, 3, 4)
    layer = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool)
    given = {
        "state": torch.nn.DataParallel(layer).state_dict(),
        "optimizer": optimizer.state_dict(),
        "random_state": np.random.RandomState(1),
        "generator": np.random.default_rng(1),
        "parameter": torch.nn.Parameter(run),
        "views": [run.transpose(0, 2), run[1:, ::2], run[0, 0, 0], run[:, :0], torch.zeros(1).expand(5)],
        "types": [run.to(dtype) for dtype in (*dtypes, torch.uint16)],
        "others": [torch.float32, torch.device("cpu"), run.shape, np.float64(3)],
    }

    def check(expected, found):
        if isinstance(expected, torch.Tensor):
            found = np.asarray(found)
            np.testing.assert_array_equal(found.astype(np.float64), expected.detach().double().numpy())
        elif isinstance(expected, dict):
            assert list(expected) == list(found)
            for key, value in expected.items():
                check(value, found[key])
        elif isinstance(expected, list | tuple):
            assert len(expected) == len(found)
            for one, other in zip(expected, found, strict=True):
                check(one, other)
        elif not isinstance(found, Opaque):
            assert expected == found

    for new in (True, False):
        torch.save(given, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        check(given, read_checkpoint(tmp_path / "a.pth"))
