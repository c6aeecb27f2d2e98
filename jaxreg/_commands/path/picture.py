"""The picture of `path`: scores and zeros against the strength, and the weights of each digit at five strengths."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from jaxreg._commands.path.experiment import Result
from jaxreg.plot import _style

ROWS = 5
_GREY, _BLUE, _ORANGE, _GREEN = _style.COLOURS


def save(result: Result, path: Path) -> Path:
    """Draw both paths and write them as a PNG of 1800 by 1650 pixels."""
    figure = Figure(figsize=(12, 11), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.75, 1.0))[:, 0]
    left, right = above.subplots(1, 2)
    _scores(left, result)
    _zeros(right, result)
    shown = _chosen_rows(result)
    panels = below.subplots(len(shown), 10, squeeze=False)
    kernels = result.whole.params.kernel
    limit = float(np.quantile(np.abs(kernels[shown]), 0.995)) or 1.0
    scale = Normalize(-limit, limit)
    for row, i in zip(panels, shown, strict=True):
        _weights(row, kernels[i], scale)
        row[0].set_ylabel(_label(result, i), rotation=0, ha="right", va="center", fontsize=11)
    for digit, axes in enumerate(panels[0]):
        axes.set_title(str(digit), fontsize=13)
    below.suptitle("Weights of each digit: one 8×8 image for each class", fontsize=14)
    bar = below.colorbar(ScalarMappable(scale, _style.weight_map()), ax=panels, aspect=40, extend="both", pad=0.02)
    bar.set_label("weight")
    below.legend(
        handles=[_style.zero_patch()],
        loc="upper left",
        fontsize=12,
        frameon=False,
    )
    figure.savefig(path)
    return path


def _chosen_rows(result: Result) -> NDArray[np.int_]:
    """The strengths to show: from the first with 2 % of weights left to the last, the two chosen ones among them."""
    folds, whole = result
    alive = int(np.argmax(whole.zeros < 0.98))
    even = np.linspace(alive, len(whole.zeros) - 1, ROWS).round().astype(int)
    for chosen in (folds.best, folds.best_1se):
        if chosen not in even:
            free = [j for j in range(len(even)) if even[j] not in (folds.best, folds.best_1se)]
            even[min(free, key=lambda j: abs(int(even[j]) - chosen))] = chosen
    return np.unique(even)


def _label(result: Result, i: int) -> str:
    folds, whole = result
    name = {folds.best_1se: "one standard error\n", folds.best: "best\n"}.get(i, "")
    return f"{name}strength {folds.coefficients[i]:.1e}\n{whole.zeros[i]:.0%} zeros\ntest {whole.scores[i]:.1%} "


def _scores(axes: Axes, result: Result) -> None:
    folds, whole = result
    loss, error = -folds.scores, folds.standard_errors
    axes.fill_between(folds.coefficients, loss - error, loss + error, color=_BLUE, alpha=0.2, linewidth=0)
    axes.plot(folds.coefficients, loss, "o-", color=_BLUE, markersize=4, label="images left out, ± standard error")
    axes.plot(whole.coefficients, whole.losses, "--", color=_GREY, label="training images")
    axes.set_yscale("log")
    axes.set_title("Cross-entropy", fontsize=14)
    _against_strength(axes, result)
    axes.legend(frameon=False, fontsize=11, loc="lower right")


def _zeros(axes: Axes, result: Result) -> None:
    whole = result.whole
    axes.plot(whole.coefficients, 100 * whole.zeros, "o-", color=_GREEN, markersize=4)
    axes.set_ylim(0, 101)
    axes.set_title("Weights that are exactly 0", fontsize=14)
    axes.set_ylabel("%", fontsize=12)
    _against_strength(axes, result)


def _against_strength(axes: Axes, result: Result) -> None:
    folds = result.folds
    for chosen, line, name in ((folds.best, ":", "best"), (folds.best_1se, "-.", "one standard error")):
        axes.axvline(folds.coefficients[chosen], color=_ORANGE, linestyle=line, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("strength of L1", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")


def _weights(row: NDArray[np.object_], kernel: NDArray[np.float32], scale: Normalize) -> None:
    for axes, weights in zip(row, kernel.T, strict=True):
        axes.imshow(_style.paint(weights.reshape(8, 8), scale), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
