"""Pickled data files give exactly what numpy would give, and hostile ones run nothing."""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import subprocess
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import open_array, read_npz, write_array
from diffpose_jax.formats.pickles import parse_pickle

DTYPES = [np.bool_, np.int8, np.uint16, np.int64, np.float16, np.float32, ">f8", "<c8", "<U3", "|S4"]


def parse(data: bytes):
    return parse_pickle(io.BytesIO(data), "test.pkl")


def same(found, expected) -> bool:
    if isinstance(expected, np.ndarray):
        if not isinstance(found, np.ndarray) or found.dtype != expected.dtype or found.shape != expected.shape:
            return False
        if expected.dtype.hasobject:
            return all(map(same, found.ravel(), expected.ravel()))
        return found.tobytes() == expected.tobytes()
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and (found == expected or found != found)


ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.complex_numbers() | ARRAYS | ARRAYS.map(np.asfortranarray) | st.floats(width=32).map(np.float32)
    | st.integers(0, 255).map(np.uint8)
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=TREES, protocol=st.integers(0, 5))
def test_plain_data_survives_every_protocol(tree, protocol):
    assert same(parse(pickle.dumps(tree, protocol=protocol)), tree)


@settings(max_examples=20, deadline=None)
@given(tree=st.dictionaries(st.text("SWalk 19", min_size=1), TREES, max_size=3))
def test_dictionaries_saved_by_numpy_come_back(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(path, positions_2d=np.array(tree, dtype=object), plain=np.arange(3))
    found = read_npz(path, ["positions_2d"], optional=["plain", "metadata"])
    assert list(found) == ["positions_2d", "plain"]
    assert same(found["positions_2d"], tree)
    assert same(found["plain"], np.arange(3))


def test_a_shared_array_stays_shared():
    array = np.arange(3)
    first, second = parse(pickle.dumps([array, array]))
    assert first is second


PYTHON2_PROTOCOL2 = (
    b"\x80\x02}q\x01U\x02S1q\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05"
    b"U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02\x85q\x09cnumpy\ndtype\nq\x0aU\x02f4q\x0bK\x00K\x01\x87q\x0cRq\x0d"
    b"(K\x03U\x01<q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb\x89U\x08\x00\x00\x80?\x00\x00\x80\xbfq\x10"
    b"tq\x11bs."
)
PYTHON2_PROTOCOL0 = (
    b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n(I1\n(I2\ntp6\n"
    b"cnumpy\ndtype\np7\n(S'f4'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nbI00\n"
    b"S'\\x00\\x00\\x80?\\x00\\x00\\x80\xbf'\np13\ntp14\nb."
)


def test_pickles_of_python_2_are_read():
    expected = np.array([1, -1], np.float32)
    assert same(parse(PYTHON2_PROTOCOL2), {"S1": expected})
    assert same(parse(PYTHON2_PROTOCOL0), expected)


def test_module_names_of_numpy_1_and_2_are_both_read():
    data = pickle.dumps(np.arange(4.0), protocol=2)
    assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
    for new in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        renamed = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert same(parse(renamed.replace(b"numpy.core.multiarray", new)), np.arange(4.0))


class Calls:
    """Pickles as a call of `function`, as any class may ask for."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Lets a pickler take the result of one call for the function of another."""


def hostile(sentinel: str) -> dict[str, object]:
    touch = f"touch {sentinel}"
    return {
        "os.system": Calls(os.system, touch),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", sentinel]),
        "builtins.eval": Calls(eval, f"open({sentinel!r}, 'w')"),
        "builtins.exec": Calls(exec, f"open({sentinel!r}, 'w')"),
        "builtins.open": Calls(open, sentinel, "w"),
        "getattr chain": Calls(Calls(getattr, Calls(__import__, "os"), "system"), touch),
        "nested in containers": {"S1": [("Walking", Calls(os.system, touch))]},
        "nested in arguments": Calls(np.array, [Calls(os.system, touch)]),
        "in an object array": np.array([1.0, Calls(os.system, touch), None], dtype=object),
        "as a key": {Calls(os.system, touch): 1},
        "numpy.load": Calls(np.load, sentinel, None, True),
        "state of an array": Calls(np.ndarray, (1,), state=Calls(os.system, touch)),
        "partial": Calls(functools.partial, os.system, touch),
        "map": Calls(list, Calls(map, os.system, [touch])),
        "setattr": Calls(setattr, Calls(__import__, "numpy"), "array", 1),
        "a plain class": ValueError("x"),
        "a set": {1, 2},
    }


@pytest.mark.parametrize("name", hostile("x"))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_members_are_refused_in_one_line_and_run_nothing(name, protocol, tmp_path):
    sentinel = tmp_path / "sentinel"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (), "fortran_order": False, "descr": "|O"})
    path = tmp_path / "data_3d_h36m.npz"
    with zipfile.ZipFile(path, "w") as archive:
        payload = pickle.dumps(hostile(str(sentinel))[name], protocol=protocol)
        archive.writestr("positions_3d.npy", header.getvalue() + payload)
    with pytest.raises(UserError) as refused:
        read_npz(path)
    message = str(refused.value)
    assert "data_3d_h36m.npz, member 'positions_3d': refused" in message
    assert "\n" not in message
    if "." in name:
        assert "the forbidden global '" in message
        assert f".{name.split('.')[-1]}';" in message
    assert not sentinel.exists()


def test_the_standard_unpickler_would_run_the_hostile_call(tmp_path):
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(hostile(str(sentinel))["os.system"]))
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"(S'echo'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'echo'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.", "os.system"),
        (b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x06system\x93.", "numpy.dtypes.system"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "NEWOBJ"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "a call of numpy.ndarray"),
        (b"\x80\x02cnumpy\ndtype\nU\x03f4,\x85R.", "dtype 'f4,'"),
        (b"\x80\x02cnumpy\ndtype\nU\x02V8\x85R.", "dtype 'V8'"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "a state for an object"),
        (b"\x80\x02cnumpy\nndarray\n.", "as data"),
        (b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\n)Ra.", "as data"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"P1\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_programs_no_pickler_would_write_are_refused(program, said):
    with pytest.raises(UserError, match=r"test.pkl: refused") as refused:
        parse(program)
    assert said in str(refused.value)


LAUGHS = b")" + b"2\x86" * 40  # A tuple of two of the same tuples, forty deep: endless to hash or print.
LATIN = b"U\x06latin1"
UNMADE_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"
FLOATS = b"cnumpy\ndtype\nU\x02f4\x85R"
ENDLESS = {
    "a key": b"}" + LAUGHS + b"Ns",
    "one of many keys": b"}(K\x01N" + LAUGHS + b"Nu",
    "a key from the start": b"(" + LAUGHS + b"Nd",
    "within a key": b"}K\x01" + LAUGHS + b"\x86Ns",
    "a long flat key": b"}(" + b"K\x01" * 1000 + b"tNs",
    "a key in an array": UNMADE_ARRAY + b"(K\x01)cnumpy\ndtype\nU\x01O\x85R\x89]}" + LAUGHS + b"Nsatb",
    "a dtype": b"cnumpy\ndtype\n" + LAUGHS + b"\x85R",
    "a dtype's byte order": FLOATS + b"(K\x03" + LAUGHS + b"NNNtb" + b"\x85",
    "a dtype's fields": FLOATS + b"(K\x03U\x01<N" + LAUGHS + LAUGHS + b"tb",
    "an array's shape": UNMADE_ARRAY + b"(K\x01" + LAUGHS + FLOATS + b"\x89U\x00tb",
    "an array's side": UNMADE_ARRAY + b"(K\x01" + LAUGHS + b"\x85" + FLOATS + b"\x89U\x00tb",
    "an array's dtype": UNMADE_ARRAY + b"(K\x01K\x01\x85" + LAUGHS + b"\x89U\x00tb",
    "an array's bytes": UNMADE_ARRAY + b"(K\x01K\x01\x85" + FLOATS + b"\x89" + LAUGHS + b"tb",
    "an array's state": UNMADE_ARRAY + LAUGHS + b"b",
    "an object of an array": UNMADE_ARRAY + b"(K\x01K\x01\x85cnumpy\ndtype\nU\x01O\x85R\x89]" + LAUGHS + b"atb",
    "a scalar": b"cnumpy.core.multiarray\nscalar\n" + FLOATS + LAUGHS + b"\x86R",
    "a scalar's dtype": b"cnumpy.core.multiarray\nscalar\n" + LAUGHS + b"U\x00\x86R",
    "a buffer's shape": b"cnumpy._core.numeric\n_frombuffer\n(U\x00" + FLOATS + LAUGHS + b"U\x01CtR",
    "a buffer's order": b"cnumpy._core.numeric\n_frombuffer\n(U\x00" + FLOATS + b"K\x01\x85" + LAUGHS + b"tR",
    "an encoding": b"c_codecs\nencode\nU\x01a" + LAUGHS + b"\x86R",
    "a text": b"c_codecs\nencode\n" + LAUGHS + LATIN + b"\x86R",
    "bytes": b"cbuiltins\nbytes\n" + LAUGHS + b"\x85R",
    "a real part": b"cbuiltins\ncomplex\n" + LAUGHS + b"K\x01\x86R",
    "too many arguments": b"cbuiltins\ncomplex\n" + LAUGHS * 3 + b"\x87R",
    "a module": LAUGHS + b"U\x06system\x93",
    "a global": b"U\x02os" + LAUGHS + b"\x93",
    "a function": LAUGHS + b")R",
    "the state of a tuple": LAUGHS + b"Nb",
    "what items are added to": LAUGHS + b"Na",
    "what keys are added to": LAUGHS + b"NNs",
    "data": LAUGHS,
    "data in a dictionary": b"}U\x02S1" + LAUGHS + b"s",
    "a list that contains itself twice": b"]q\x00(h\x00h\x00e",
    "an array that contains itself": UNMADE_ARRAY + b"q\x00(K\x01)cnumpy\ndtype\nU\x01O\x85R\x89]h\x00atb",
    "a list too deep": b"]" * 100_000 + b"a" * 99_999,
    "a shape of huge numbers": (
        UNMADE_ARRAY + b"(K\x01(\x8b\xa0\x86\x01\x00" + bytes(99_999) + b"\x01q\x00" + b"h\x00" * 50_000
        + b"t" + FLOATS + b"\x89U\x00tb"
    ),
    "an array made a thousand times": (
        b"(cnumpy._core.numeric\n_frombuffer\nq\x00(T\x00\x00\x04\x00" + bytes(1 << 18) + FLOATS
        + b"J\x00\x00\x01\x00\x85U\x01Ctq\x01R" + b"h\x00h\x01R" * 1000 + b"l"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_an_endless_archive_is_refused_in_one_line_at_once(tmp_path, case):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (), "fortran_order": False, "descr": "|O"})
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("positions_3d.npy", header.getvalue() + b"\x80\x02" + ENDLESS[case] + b".")
    begun = time.process_time()
    with pytest.raises(UserError, match=r"data.npz, member 'positions_3d': (refused|expected a pickle of)") as caught:
        read_npz(tmp_path / "data.npz")
    assert time.process_time() - begun < 1
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_keys_may_be_numbers_and_short_tuples_and_parts_may_be_shared(protocol):
    lengths = list(range(1000))
    keys = [("S1", 1, None, 2.5), b"S1", np.int64(3), np.str_("S5"), True, None, 1j, (), ("Walking", np.int32(1))]
    tree = {key: [lengths] * 20 for key in keys}
    assert same(parse(pickle.dumps(tree, protocol=protocol)), tree)


@pytest.mark.parametrize("protocol", range(6))
def test_many_small_arrays_are_not_taken_for_repetition(protocol):
    tree = [np.array(i % 2 == 0) for i in range(2000)] + [np.zeros((3, 0))] * 10 + [np.zeros(5000, np.uint8) + 200]
    assert same(parse(pickle.dumps(tree, protocol=protocol)), tree)


def test_array_states_that_do_not_add_up_are_damaged_files():
    good = pickle.dumps(np.arange(2, dtype=np.int32), protocol=2)
    assert b"K\x02\x85" in good
    for bad in (good.replace(b"K\x02\x85", b"K\x03\x85", 1), good.replace(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", 1)):
        with pytest.raises(UserError, match="damaged"):
            parse(bad)
    huge = good.replace(b"K\x02\x85", b"\x8a\x05\x00\x00\x00\x00\x7f\x85", 1)
    with pytest.raises(UserError, match="damaged"):
        parse(huge)


def line_or_data(data: bytes) -> str:
    try:
        return str(type(parse(data)))
    except UserError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=40) | st.binary(max_size=30).map(lambda tail: b"\x80\x02" + tail))
def test_any_bytes_give_data_or_one_clear_line(data):
    assert "\n" not in line_or_data(data)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_pickles_give_data_or_one_clear_line(data):
    good = bytearray(pickle.dumps({"S1": [np.arange(3.0), "Walking", 2.5]}, protocol=data.draw(st.integers(0, 5))))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    assert "\n" not in line_or_data(bytes(good))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, positions_3d=np.array({"S1": np.ones((50, 32, 3))}, dtype=object), plain=np.ones((20, 3)))
    return path


def test_files_that_are_no_archives_are_refused(archive, tmp_path):
    whole = archive.read_bytes()
    for name, content in {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"positions_3d",
        "pickle": pickle.dumps(Calls(os.system, f"touch {tmp_path / 'sentinel'}")),
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.npz: expected an .npz file, found a damaged"):
            read_npz(path)
    with pytest.raises(UserError, match=r"nowhere.npz: expected an .npz file, found no such file"):
        read_npz(tmp_path / "nowhere.npz")
    assert not (tmp_path / "sentinel").exists()


def test_a_flipped_byte_inside_a_member_is_noticed(archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 3] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(UserError, match="CRC"):
        read_npz(archive)


def test_a_missing_member_is_named_with_those_found(archive):
    with pytest.raises(UserError, match="expected member 'positions_2d', found plain, positions_3d"):
        read_npz(archive, ["positions_2d"])


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**13,), "fortran_order": False, "descr": "<f8"})
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keypoints.npy", header.getvalue() + bytes(8))
    with pytest.raises(UserError, match=r"member 'keypoints': expected a numpy array, found ValueError: fewer bytes"):
        read_npz(path)


def test_an_array_of_objects_comes_back_as_an_array(tmp_path):
    expected = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "data.npz", objects=expected)
    assert same(read_npz(tmp_path / "data.npz")["objects"], expected)


def test_the_unpicklers_of_python_and_numpy_are_not_called(archive, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a standard unpickler was called")

    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(np, "load", forbidden)
    monkeypatch.setattr(builtins, "eval", forbidden)
    assert read_npz(archive)["positions_3d"]["S1"].shape == (50, 32, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_written_in_pieces_are_read_by_numpy_and_by_us(tmp_path, dtype):
    path, values = tmp_path / "a.npz", np.arange(24).reshape(6, 2, 2).astype(dtype)
    with zipfile.ZipFile(path, "w") as archive:
        with open_array(archive, "pieces", values.shape, values.dtype) as write:
            for first in range(0, 6, 4):
                write(values[first : first + 4])
        write_array(archive, "whole", values.T)
        write_array(archive, "scalar", np.array(7))
        write_array(archive, "nothing", values[:0])
    expected = {"pieces": values, "whole": values.T, "scalar": np.array(7), "nothing": values[:0]}
    with np.load(path, allow_pickle=False) as arrays:
        for name, array in expected.items():
            assert same(np.ascontiguousarray(arrays[name]), np.ascontiguousarray(array))
    assert all(
        same(np.ascontiguousarray(read_npz(path)[name]), np.ascontiguousarray(expected[name])) for name in expected
    )


def test_a_member_with_fewer_numbers_than_announced_is_an_error(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        pytest.raises(ValueError, match="6 numbers were announced, 4 written"),
        open_array(archive, "a", (3, 2), np.float32) as write,
    ):
        write(np.zeros((2, 2)))
