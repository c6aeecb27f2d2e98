"""The command `path`: what it prints and writes, what it refuses, and that its weights are minima."""

import numpy as np
import pytest
from matplotlib.image import imread

import jaxreg
from jaxreg._commands.digits import load_digits
from jaxreg._commands.main import main
from jaxreg._commands.path import experiment, picture


@pytest.fixture(scope="module")
def result(optimized):
    return experiment.run(strengths=12, folds=3, seed=0)


def test_table_and_picture(result, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(experiment, "run", lambda strengths, folds, seed: result)
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "new" / "directory"
    assert main(["path", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "table.txt").read_text() in printed
    assert printed.splitlines()[-2:] == [str(out / "table.txt"), str(out / "path.png")]
    assert max(map(len, printed.splitlines()[:-2])) <= 80
    rows = [line for line in printed.splitlines() if "±" in line]
    assert len(rows) == 12
    assert "…" not in printed
    (best,) = (line for line in rows if "best" in line)
    assert best.startswith(f"{result.folds.coefficients[result.folds.best]:.2e}")
    assert sum("one standard error" in line for line in rows) == (result.folds.best_1se != result.folds.best)
    image = imread(out / "path.png")
    assert image.shape[:2] == (1650, 1800)
    assert image[..., :3].std() > 0.1


def test_the_weights_are_minima(result):
    """Of cross-entropy + L1: the gradient is -strength·sign at a weight, and no larger than the strength at a zero."""
    digits = load_digits()
    images = digits.train.images.astype(float) - digits.train.images.mean(axis=0)
    for i in (2, 6):
        strength, (kernel, bias) = result.whole.coefficients[i], result.whole.at(i)
        logits = images @ kernel + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors = odds / odds.sum(axis=1, keepdims=True) - np.eye(10)[digits.train.labels]
        gradient = images.T @ errors / len(images)
        np.testing.assert_allclose(gradient[kernel != 0], -strength * np.sign(kernel[kernel != 0]), rtol=5e-3)
        assert np.all(np.abs(gradient[kernel == 0]) <= 1.005 * strength)
        np.testing.assert_allclose(errors.mean(axis=0), 0, atol=1e-4)
        assert result.whole.zeros[i] == pytest.approx(np.mean(kernel == 0))
        test_images = digits.test.images - digits.train.images.mean(axis=0)
        right = (test_images @ kernel + bias).argmax(axis=1) == digits.test.labels
        assert result.whole.scores[i] == pytest.approx(right.mean())


def test_all_weights_are_zero_at_the_first_strength_and_not_below(result):
    top = result.folds.coefficients[0]
    images, labels = _training()
    for factor, zeros in ((1.001, True), (0.9, False)):
        reg = jaxreg.TreeRegularizer({"kernel": jaxreg.L1(factor * top), "bias": None})
        weights, _ = experiment.fit(reg, images, labels, np.ones(len(labels), np.float32))
        assert bool((weights.kernel == 0).all()) == zeros


def _training():
    part = load_digits().train
    return part.images - part.images.mean(axis=0), part.labels


def test_the_score_turns(result):
    """Too weak and too strong are both worse on the images left out, and the choice is strongest within the error."""
    folds = result.folds
    assert folds.scores[0] < folds.scores[folds.best]
    assert folds.coefficients[folds.best_1se] >= folds.coefficients[folds.best]
    assert np.all(np.diff(result.whole.zeros) <= 0)


@pytest.mark.parametrize("chosen", [(0, 0), (5, 0), (3, 2), (4, 5)])
def test_the_chosen_strengths_are_in_the_picture(chosen):
    best, best_1se = chosen
    folds = type("Folds", (), {"best": best, "best_1se": best_1se})
    whole = type("Whole", (), {"zeros": np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])})
    rows = picture._chosen_rows(experiment.Result(folds, whole))
    assert set(chosen) <= set(rows)
    assert len(rows) <= picture.ROWS


def test_one_strength(optimized, tmp_path, capsys):
    assert main(["path", "--strengths", "1", "--folds", "2", "--out", str(tmp_path)]) == 0
    assert "best" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "must be a whole number from 2 to 100, got '1'"),
        (["--folds", "x"], "must be a whole number of at least 1, got 'x'"),
        (["--strengths", "0"], "must be a whole number of at least 1, got '0'"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["path", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_in_place_of_the_directory(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["path", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("python -m jaxreg path: --out ")
