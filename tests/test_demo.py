"""The command `demo`: what it prints and writes, what it refuses, how it stops, and the effect it is there to show."""

import contextlib
import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.image import imread

from jaxreg._commands import report
from jaxreg._commands.demo import picture, runs, table, training
from jaxreg._commands.demo.network import LAYERS
from jaxreg._commands.demo.training import Result
from jaxreg._commands.digits import load_digits
from jaxreg._commands.main import main
from jaxreg.plot import _style

MODELS = ("linen", "nnx")
STEPS = 12


class Demo(NamedTuple):
    """What one call of the command gave."""

    code: int
    printed: str
    out: Path
    results: list[Result]


def run_demo(arguments, out):
    kept = []
    train_all = training.train_all

    def train_and_keep(*args):
        kept.extend(train_all(*args))
        return kept

    stdout = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
        patch.setattr(training, "train_all", train_and_keep)
        patch.setenv("COLUMNS", "80")
        code = main(["demo", *arguments, "--out", str(out)])
    return Demo(code, stdout.getvalue(), out, kept)


@pytest.fixture(scope="module", params=MODELS)
def demo(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "new" / "directory"
    return run_demo(["--model", request.param, "--steps", str(STEPS)], out)


@pytest.fixture(scope="module")
def results(demo):
    return demo.results


def by_label(results):
    return {result.label: result for result in results}


# ------------------------------------------------------------------------------------------------------ what it gives


def test_four_runs_with_numbers_that_make_sense(results):
    assert [result.label for result in results] == [
        "no penalty",
        "L2 in the loss",
        "module attributes",
        "L1 by proximal",
    ]
    for result in results:
        assert result.steps[0] == 0
        assert result.steps[-1] == STEPS
        assert len(result.steps) == len(result.train_loss) == len(result.test_accuracy)
        assert all(0 <= accuracy <= 1 for accuracy in result.test_accuracy)
        assert result.train_loss[-1] < result.train_loss[0]


def test_the_step_compiles_once_in_each_run(results):
    assert [result.compilations for result in results] == [1, 1, 1, 1]


def test_only_the_proximal_run_has_exact_zeros(results):
    for label, result in by_label(results).items():
        assert (table.zero_share(result) > 0) == (label == "L1 by proximal")


def test_the_runs_start_from_the_same_weights(results):
    assert len({(result.train_loss[0], result.test_accuracy[0]) for result in results}) == 1


def test_the_penalties_are_those_of_the_formulas(results):
    found = by_label(results)
    assert found["no penalty"].penalty is None
    l2, l1, both = (found[label] for label in ("L2 in the loss", "L1 by proximal", "module attributes"))
    for layer in LAYERS:
        assert l2.penalty[layer] == pytest.approx(runs.L2 * np.sum(l2.kernels[layer] ** 2), rel=1e-4)
        assert l1.penalty[layer] == pytest.approx(runs.L1 * np.sum(np.abs(l1.kernels[layer])), rel=1e-4)
        of_kernel = runs.L2 * np.sum(both.kernels[layer] ** 2)
        assert (
            both.penalty[layer] == pytest.approx(of_kernel, rel=1e-4)
            if layer == "output"
            else (both.penalty[layer] > 1.01 * of_kernel)
        )


def test_the_activity_penalty_is_of_what_leaves_the_relu(results):
    result = by_label(results)["module attributes"]
    of_kernel = runs.L2 * np.sum(result.kernels["first"] ** 2)
    mean = (result.penalty["first"] - of_kernel) / (runs.ACTIVITY * 64)
    assert mean == pytest.approx(result.activity, rel=0.1)  # the one on training, the other on test images


def test_same_seed_same_numbers_other_seed_other_numbers():
    run = runs.all_runs("linen", 5)[-1]
    first, again, other = (training.train(run, load_digits(), 5, seed, lambda *_: None) for seed in (3, 3, 4))
    numbers = [(one.train_loss, one.test_accuracy, one.penalty, one.zeros) for one in (first, again, other)]
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


def test_the_parts_of_the_data_are_fixed_and_apart():
    first, second = load_digits(), load_digits()
    for one, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.images, same.images)
    rows = np.concatenate([part.images for part in first])
    labels = np.concatenate([part.labels for part in first])
    assert rows.shape == (1797, 64)
    assert rows.min() == 0
    assert rows.max() == 1
    assert np.array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


# ------------------------------------------------------------------------------------------------------- the command


def test_writes_a_table_and_a_picture_and_prints_where(demo):
    assert demo.code == 0
    assert demo.printed.splitlines()[-2:] == [str(demo.out / "table.txt"), str(demo.out / "weights.png")]
    text = (demo.out / "table.txt").read_text(encoding="utf-8")
    assert text in demo.printed
    for label in ("no penalty", "L2 in the loss", "module attributes", "L1 by proximal"):
        assert len(re.findall(rf"^{label} +\d+\.\d%", text, re.MULTILINE)) == 1
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert "…" not in text  # nothing was cut off to fit
    height, width, _ = imread(demo.out / "weights.png").shape
    assert 1600 <= width <= 2400
    assert 1000 <= height <= 1800
    assert (demo.out / "weights.png").stat().st_size < 1_000_000


def test_a_zero_weight_has_a_colour_of_its_own():
    kernel = np.zeros((64, 64), np.float32)
    kernel[0, 5] = 1e-8  # the largest unit, so the first image; its first pixel
    scale = picture.Normalize(-1, 1)
    image = picture.mosaic(kernel, scale)
    assert image.shape == (71, 71, 3)
    grey = np.round(255 * np.array(_style.zero_colour()))
    assert not np.allclose(image[0, 0], grey, atol=25.5)
    np.testing.assert_array_equal(image[0, 1], grey)
    np.testing.assert_array_equal(image[0, 8], (255, 255, 255))


def test_help_tells_commands_options_and_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for arguments, words in (
        (["--help"], ["demo", "COMMAND --help"]),
        (["demo", "--help"], ["--model {linen,nnx}", "--steps", "--seed", "--out", "default: 6000", "examples:"]),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words)
        assert max(map(len, text.splitlines())) <= 80


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "invalid choice: 'train'"),
        (["demo", "--steps", "0"], "--steps: must be a whole number of at least 1, got '0'"),
        (["demo", "--steps", "many"], "--steps: must be a whole number of at least 1, got 'many'"),
        (["demo", "--seed", "-1"], "--seed: must be a whole number from 0 to 4294967295, got '-1'"),
        (["demo", "--model", "keras"], "--model: invalid choice: 'keras'"),
        (["demo", "--depth", "3"], "unrecognized arguments: --depth 3"),
    ],
)
def test_wrong_arguments_end_with_the_rule(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "path", "inspect x", "convert x"])
def test_an_option_that_is_not_there_shows_the_usage_of_its_command(command, capsys):
    """Its last line is the error; before it stand the options that there are."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--stepps", "5"])
    *usage, error = capsys.readouterr().err.splitlines()
    own = " ".join(["python -m jaxreg", *command.split()[:1]])
    assert usage[0].startswith(f"usage: {own} [-h]")
    assert error == f"{own}: error: unrecognized arguments: --stepps 5"


def test_a_narrow_terminal_shows_every_number_whole(results, monkeypatch, capsys):
    """rich shortens numbers to `0.…`; a line that is too long is broken by the terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    report.show(*table.parts(results))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(f"{result.test_accuracy[-1]:.1%}" in shown for result in results)


def test_out_that_is_a_file_ends_in_one_line_before_training(tmp_path, capsys):
    path = tmp_path / "file"
    path.touch()
    assert main(["demo", "--out", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"python -m jaxreg demo: --out {path}: cannot make this directory (File exists)"
    ]


def test_files_that_cannot_be_written_end_in_one_line(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "train_all", lambda *_: results)
    (tmp_path / "table.txt").mkdir()
    assert main(["demo", "--steps", "1", "--out", str(tmp_path)]) == 2
    assert f"cannot write into --out {tmp_path} (Is a directory)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("modules", "packages"),
    [(("rich",), "rich"), (("sklearn",), "scikit-learn"), (("flax", "matplotlib"), "flax, matplotlib")],
)
def test_a_missing_extra_tells_what_to_install(modules, packages, monkeypatch, capsys):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # so Python takes it for not installed
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f'python -m jaxreg demo: needs {packages}: pip install "jaxreg[demo]"\n'
    assert captured.out == ""


def test_help_needs_no_extra():
    code = """
import sys
for name in ("flax", "matplotlib", "rich", "sklearn"):
    sys.modules[name] = None
from jaxreg._commands.main import main
main(["demo", "--help"])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


# ------------------------------------------------------------------------------------------------------------ Ctrl-C


def test_ctrl_c_ends_in_one_line_with_code_130(tmp_path):
    terminal, inside = pytest.importorskip("pty").openpty()
    command = [sys.executable, "-m", "jaxreg", "demo", "--steps", "100000000", "--out", str(tmp_path)]
    # A shell lets what it starts in the background ignore Ctrl-C, and so does all that is started there.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", heard, *command], stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    try:
        shown = _read(terminal, until="test ")
        time.sleep(0.5)  # into the training itself
        process.send_signal(signal.SIGINT)
        shown += _read(terminal, until=None)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "Traceback" not in shown
    last = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown).rstrip().splitlines()[-1]
    assert last == "python -m jaxreg demo: stopped by Ctrl-C."
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor, hidden by the bar, is back
    assert list(tmp_path.iterdir()) == []


def _read(terminal, until, timeout=60):
    """Read until a text was shown, or (None) to the end."""
    shown = ""
    end = time.monotonic() + timeout
    while until is None or until not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert ready, f"nothing more within {timeout} s; so far: {shown!r}"
        try:
            read = os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # Linux ends a terminal whose other side is closed by EIO
            break
        if not read:
            break
        shown += read
    return shown


# --------------------------------------------------------------------------------------------------- the whole thing


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_default_run_shows_the_effect_within_a_minute(model, tmp_path):
    start = time.perf_counter()
    demo = run_demo(["--model", model], tmp_path)
    assert time.perf_counter() - start < 60
    found = by_label(demo.results)
    plain, l2, attributes, l1 = found.values()
    assert table.zero_share(l1) >= 0.4
    assert all(table.zero_share(result) == 0 for result in (plain, l2, attributes))
    for result in found.values():
        assert result.test_accuracy[-1] >= plain.test_accuracy[-1] - 0.02
        assert result.test_accuracy[-1] >= 0.94
    assert attributes.activity < 0.25 * plain.activity
    assert np.linalg.norm(l2.kernels["first"]) < 0.7 * np.linalg.norm(plain.kernels["first"])
