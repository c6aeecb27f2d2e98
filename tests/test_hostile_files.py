"""Checkpoints that claim more than they hold, or crash what reads them: one line, within limits."""

import json
import time
import zipfile

import h5py
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxreg._commands.checkpoints import files, hdf5, limits
from jaxreg._commands.main import main


@pytest.fixture
def small_limit(monkeypatch):
    """So that a bomb of this test is a small one."""
    monkeypatch.setattr(limits, "_LEAST_BYTES", 1 << 20)


def refused(path, capsys, *command):
    begin = time.monotonic()
    assert main([*(command or ("inspect",)), str(path)]) == 2
    assert time.monotonic() - begin < 30
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"python -m jaxreg {(command or ('inspect',))[0]}: {path}: ")
    return captured.err


def graph_of_links(path):
    """2⁴⁰ paths in 42 groups."""
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(40):
            below = group.create_group("a")
            group["b"] = below
            group = below
        group["vars/0"] = np.ones(3, np.float32)


def cycle(path):
    with h5py.File(path, "w") as file:
        file.create_group("a")["b"] = file["/"]


def many_objects(path):
    with h5py.File(path, "w") as file:
        for i in range(300):
            file.create_group(f"vars/{i}")


def npz(path):
    with path.open("wb") as file:
        np.savez_compressed(file, w=np.zeros(1 << 21, np.float32))


def npz_header(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00v\x00" + header + b"1234")


def h5_zeros(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("vars/0", data=np.zeros(1 << 21, np.float32), compression="gzip")


def h5_in_keras(path):
    h5_zeros(path.with_suffix(".h5"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(path.with_suffix(".h5"), "model.weights.h5")


def keras_zip(config, weights):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", b"{}".ljust(config))
            archive.writestr("model.weights.h5", bytes(weights))

    return write


def zarr(name, value):
    def write(path):
        with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
            checkpointer.save(path.absolute(), {"w": jnp.ones((2, 3))})
        (described,) = path.glob("*/.zarray")
        described.write_text(json.dumps({**json.loads(described.read_text()), name: value}))

    return write


BOMBS = {
    "graph of links": (graph_of_links, "a second link to a group"),
    "cycle of links": (cycle, "a second link to a group"),
    "objects": (many_objects, "holds more than 200 objects"),
    "npz": (npz, "read are at most"),
    "npz header": (npz_header, "claims 1 arrays of 4000000000000 bytes"),
    "h5 zeros": (h5_zeros, "claims 1 arrays of 8388608 bytes"),
    "h5 in keras": (h5_in_keras, "claims 1 arrays of 8388608 bytes"),
    "keras weights": (keras_zip(2, 1 << 23), "claims 1 arrays of 8388608 bytes"),
    "keras config": (keras_zip(1 << 20, 9), "config.json has 1048576 bytes"),
    "zarr shape": (zarr("shape", [10**10, 1]), "claims 1 arrays of 40000000000 bytes"),
    "zarr chunks": (zarr("chunks", [10**10, 3]), "claims 1 arrays of 120000000000 bytes"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_in_one_line_that_states_the_limit(kind, tmp_path, capsys, small_limit, monkeypatch):
    monkeypatch.setattr(limits, "MOST_ARRAYS", 200)
    monkeypatch.setattr(limits, "_MOST_CONFIG", 1 << 16)
    make, message = BOMBS[kind]
    make(tmp_path / "file")
    assert message in refused(tmp_path / "file", capsys)


def test_a_dataset_with_many_links_is_read_once(tmp_path, capsys, small_limit):
    with h5py.File(tmp_path / "file", "w") as file:
        file["vars/00"] = np.zeros(1 << 17, np.float32)
        for i in range(1, 61):
            file[f"vars/{i:02}"] = file["vars/00"]  # 30 MB, were each read
    arrays = files.read(tmp_path / "file")
    assert len(arrays) == 61 and len({id(array) for array in arrays.values()}) == 1
    assert main(["inspect", str(tmp_path / "file"), "--json"]) == 0
    leaves = json.loads(capsys.readouterr().out)["leaves"]
    assert [leaf["left_out"] for leaf in leaves[1:]] == ["the same array as 00"] * 60


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "the HDF5 library ended with code -6 on it"),
        ("while True: pass", "the HDF5 library took more than 1 s on it"),
        ("print('{\"config\": null')", "damaged, or not what it seems"),
        ('print(\'{"is_legacy": 0, "config": null, "variables": [], "arrays": [["f4", [9]]]}\')', "ended with code 0"),
        ('print(\'{"is_legacy": 0, "config": null, "variables": [], "arrays": [["f4", [4611686018427387904, 4]]]}\')',
         "claims 1 arrays of 73786976294838206464 bytes"),
    ],
    ids=["crash", "hang", "half a line", "no values", "overflow"],
)  # fmt: skip
def test_a_library_that_crashes_or_hangs_ends_in_one_line(program, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "program.py").write_text(program)
    h5_zeros(tmp_path / "file")
    monkeypatch.setattr(hdf5, "PROGRAM", tmp_path / "program.py")
    monkeypatch.setattr(limits, "seconds", lambda path: 1)
    for command in ("inspect", "convert"):
        assert message in refused(tmp_path / "file", capsys, command) or "claims" in message


def test_the_reader_has_its_limits_of_memory(tmp_path, capsys, monkeypatch):
    """An array of 8 MB in a process that may take 1 MB more than it has without one."""
    resource = pytest.importorskip("resource")
    del resource
    h5_zeros(tmp_path / "file")
    monkeypatch.setattr(hdf5, "_OVERHEAD", -(1 << 30) + (1 << 20))
    assert "damaged" in refused(tmp_path / "file", capsys)


def test_half_precision_of_keras_is_read_as_it_is(tmp_path):
    """Keras 3 writes bfloat16 as two bytes and an attribute, since HDF5 does not know it."""
    kernel = np.arange(6.0).reshape(2, 3).astype(ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "file", "w") as file:
        file.create_dataset("dense/vars/0", data=kernel.view("V2")).attrs["dtype"] = "bfloat16"
        file["dense/vars/1"] = np.array([1.0, 0.0, -2.0], ">f8")  # and another byte order
    arrays = files.read(tmp_path / "file")
    assert arrays["dense/0"].dtype == kernel.dtype and (arrays["dense/0"] == kernel).all()
    assert arrays["dense/1"].dtype == np.float64 and arrays["dense/1"].tolist() == [1.0, 0.0, -2.0]
