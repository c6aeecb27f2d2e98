"""`inspect` with dtypes, names and rules that do not fit, and with outputs that are full, closed, narrow or gone."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import types

import flax.serialization
import ml_dtypes
import numpy as np
import pytest

from jaxreg._commands import report
from jaxreg._commands.checkpoints import files
from jaxreg._commands.demo import command as demo
from jaxreg._commands.main import main
from jaxreg._commands.path import command as path_command


def safetensors(path, tensors):
    """As https://github.com/huggingface/safetensors describes the format."""
    header, data = {}, b""
    for name, (dtype, raw) in tensors.items():
        shape = [len(raw) // {"F8": 1, "BF": 2, "F3": 4, "I6": 8, "C6": 8, "BO": 1}[dtype[:2]]]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_every_format_of_safetensors_is_read(tmp_path):
    expected = {
        "F8_E4M3": (ml_dtypes.float8_e4m3fn, b"\x38\x00\xc0", [1, 0, -2]),
        "F8_E5M2": (ml_dtypes.float8_e5m2, b"\x3c\x80\xc0", [1, 0, -2]),
        "F8_E8M0": (ml_dtypes.float8_e8m0fnu, b"\x7f\x80", [1, 2]),
        "BF16": (ml_dtypes.bfloat16, b"\x80\x3f\x00\x00", [1, 0]),
        "F32": (np.float32, struct.pack("<2f", 1, -2), [1, -2]),
        "I64": (np.int64, struct.pack("<q", -3), [-3]),
        "C64": (np.complex64, struct.pack("<2f", 1, -2), [1 - 2j]),
        "BOOL": (np.bool_, b"\x01\x00", [True, False]),
    }
    safetensors(tmp_path / "file", {name: (name, raw) for name, (_, raw, _) in expected.items()})
    arrays = files.read(tmp_path / "file")
    for name, (dtype, _, values) in expected.items():
        assert arrays[name].dtype == dtype and arrays[name].astype(complex).tolist() == values, name


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">c8", np.longdouble, np.clongdouble, "float8_e4m3fn"])
def test_dtypes_that_jax_does_not_have_are_measured(dtype, tmp_path, capsys):
    if dtype == "float8_e4m3fn":
        safetensors(tmp_path / "file", {"w": ("F8_E4M3", b"\x38\x00\xc0")})
    else:
        with (tmp_path / "file").open("wb") as file:
            np.savez(file, w=np.array([1, 0, -2], dtype))
    (tmp_path / "rules.json").write_text('{"rules": [["**", {"class_name": "L1", "config": {"l1": 0.5}}]]}')
    assert main(["inspect", str(tmp_path / "file"), "--rules", str(tmp_path / "rules.json"), "--json"]) == 0
    (leaf,) = json.loads(capsys.readouterr().out)["leaves"]
    assert (leaf["penalty"], leaf["zeros"]) == (1.5, 1)
    assert leaf["dtype"][0] in "fc"


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"value": [0], "m": {"value": [1]}}, {"value": [0], "m": [1]}),  # a box is left out, a parameter is not
        ({"k": {"value": [1], "query": [2]}}, {"k/value": [1], "k/query": [2]}),
        ({"a/b": [1], "a": {"c": [2]}}, {"a/b": [1], "a/c": [2]}),
        ({"a/b": [1], "a": {"b": [2]}}, None),
    ],
)
def test_paths_of_msgpack(tree, expected, tmp_path, capsys):
    arrays = {
        k: {n: np.array(x) for n, x in v.items()} if isinstance(v, dict) else np.array(v) for k, v in tree.items()
    }
    (tmp_path / "file").write_bytes(flax.serialization.to_bytes(arrays))
    if expected is None:
        assert main(["inspect", str(tmp_path / "file")]) == 2
        assert "holds a/b twice" in capsys.readouterr().err
    else:
        assert {name: array.tolist() for name, array in files.read(tmp_path / "file").items()} == expected


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_names_that_would_be_one_path_stay_as_they_are(kind, tmp_path):
    if kind == "npz":
        with (tmp_path / "file").open("wb") as file:
            np.savez(file, **{"a.b": np.zeros(1), "a/b": np.ones(1)})
    else:
        safetensors(tmp_path / "file", {"a.b": ("F8_E5M2", b"\0"), "a/b": ("F8_E5M2", b"\x3c")})
    assert {name: float(array[0]) for name, array in files.read(tmp_path / "file").items()} == {"a.b": 0, "a/b": 1}


def test_a_penalty_that_does_not_fit_its_leaf_is_one_line(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    (tmp_path / "rules.json").write_text('{"rules": [["**", {"class_name": "SpectralNorm", "config": {}}]]}')
    assert main(["inspect", str(tmp_path / "a.npz"), "--rules", str(tmp_path / "rules.json")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "the leaf 'w'" in error and "shape (3,)" in error


# ----------------------------------------------------------------------------------------------------------- outputs


@pytest.fixture
def checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", **{"w": np.ones((2, 3)), "\u4e2d": np.ones(1)})
    return str(tmp_path / "a.npz")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_narrow_encodings_show_the_same_table(encoding, checkpoint, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["inspect", checkpoint]) == 0
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert ("2×3" if encoding == "utf-8" else "2x3") in lines[2]
    assert lines[3].startswith("\u4e2d" if encoding == "utf-8" else r"\u4e2d")


def test_a_closed_output_is_no_error(checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["inspect", checkpoint]) == 0
    sys.stdout.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_line(checkpoint, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["inspect", checkpoint]) == 2
    expected = "python -m jaxreg inspect: cannot write its output (No space left on device)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("argv", [["--help"], ["inspect", "--help"], ["--version"], []], ids=" ".join)
def test_help_that_cannot_be_written_is_one_line_and_a_closed_output_none(argv, monkeypatch, capsys):
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert main(argv) == 2
        assert capsys.readouterr().err == "python -m jaxreg: cannot write its output (No space left on device)\n"
    monkeypatch.setattr(sys, "stdout", None)
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
    assert code == (0 if argv else 2)
    sys.stdout.close()
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_the_commands_are_imported_is_one_line():
    code = (
        "import builtins, sys\nfrom jaxreg.__main__ import main\nfound = builtins.__import__\n"
        "def imported(name, *args):\n    if name == 'argparse':\n        raise KeyboardInterrupt\n"
        "    return found(name, *args)\nbuiltins.__import__ = imported\nsys.exit(main(['--help']))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "python -m jaxreg: stopped by Ctrl-C.\n")


def test_rich_raises_what_print_raises_when_the_reader_has_gone(monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(BrokenPipeError):
        report.show("a table")
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("command", [demo, path_command], ids=["demo", "path"])
def test_the_files_are_written_when_the_reader_has_gone(command, tmp_path, monkeypatch):
    from jaxreg._commands.demo import picture as demo_picture
    from jaxreg._commands.demo import table as demo_table
    from jaxreg._commands.demo import training
    from jaxreg._commands.path import experiment, picture, table

    def gone(*parts):
        raise BrokenPipeError

    monkeypatch.setattr(report, "show", gone)
    monkeypatch.setattr(training, "train_all", lambda *args: None)
    monkeypatch.setattr(experiment, "run", lambda *args: None)
    for module in (demo_table, table):
        monkeypatch.setattr(module, "parts", lambda result: ("the table",))
    for module in (demo_picture, picture):
        monkeypatch.setattr(module, "save", lambda result, path: path.write_text("the picture"))
    args = types.SimpleNamespace(out=tmp_path, model="linen", steps=1, seed=0, strengths=2, folds=2)
    with pytest.raises(BrokenPipeError):
        command.run(args)
    assert sorted(file.read_text().strip() for file in tmp_path.iterdir()) == ["the picture", "the table"]
