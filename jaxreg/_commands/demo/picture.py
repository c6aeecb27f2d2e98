"""The picture of the demo: learning curves above, the weights of the first layer as images below."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from jaxreg._commands.demo.training import Result
from jaxreg.plot import _style

LINES: tuple[str, ...] = ("-", "--", "-.", "-")
SIDE = 8  # a digit has 8×8 pixels, and the mosaic 8×8 units


def save(results: list[Result], path: Path) -> Path:
    """Draw the results and write them as a PNG of 2100 by 1500 pixels."""
    figure = Figure(figsize=(14, 10), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.9, 1.0), hspace=0.03)[:, 0]
    _curves(above.subplots(1, 2), results)
    limit = float(np.quantile(np.abs([result.kernels["first"] for result in results]), 0.99))
    scale = Normalize(-limit, limit)
    panels = below.subplots(1, len(results))
    for axes, result, colour in zip(panels, results, _style.COLOURS, strict=True):
        _weights(axes, result, colour, scale)
    below.suptitle("Weights of the first layer: one 8×8 image for each of the 64 units, the largest first", fontsize=14)
    bar = below.colorbar(
        ScalarMappable(scale, _style.weight_map()),
        ax=panels,
        location="bottom",
        extend="both",
        aspect=40,
        shrink=0.42,
        pad=0.03,
    )
    bar.set_label("weight")
    below.legend(
        handles=[_style.zero_patch()],
        loc="lower left",
        bbox_to_anchor=(0.74, 0.045),
        fontsize=12,
        frameon=False,
    )
    figure.savefig(path)
    return path


def mosaic(kernel: NDArray[np.float32], scale: Normalize) -> NDArray[np.uint8]:
    """Return the units of a (64, 64) kernel as one RGB image, those of largest norm first, with white lines between."""
    order = np.argsort(-np.linalg.norm(kernel, axis=0), kind="stable")
    units = kernel.T[order].reshape(-1, SIDE, SIDE)
    tiles = np.pad(_style.paint(units, scale), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255)
    rows = tiles.reshape(SIDE, SIDE, SIDE + 1, SIDE + 1, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(SIDE * (SIDE + 1), SIDE * (SIDE + 1), 3)[:-1, :-1]


def _weights(axes: Axes, result: Result, colour: str, scale: Normalize) -> None:
    axes.imshow(mosaic(result.kernels["first"], scale), interpolation="nearest")
    zeros = result.zeros["first"]
    axes.set_title(result.label, color=colour, fontsize=14, fontweight="bold")
    note = f"{zeros:.0%} of the weights exactly 0" if zeros else "no weight exactly 0"
    axes.set_xlabel(f"{note}\nmean activity {result.activity:.2f}", fontsize=12)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _curves(both: NDArray[np.object_], results: list[Result]) -> None:
    left, right = both
    for result, colour, line in zip(results, _style.COLOURS, LINES, strict=True):
        left.plot(result.steps, result.train_loss, line, color=colour, linewidth=2.2, label=result.label)
        label = f"{result.label}: {result.test_accuracy[-1]:.1%}"
        right.plot(
            result.steps, [100 * a for a in result.test_accuracy], line, color=colour, linewidth=2.2, label=label
        )
    left.set_yscale("log")
    left.set_title("Training loss, without the penalty", fontsize=14)
    left.set_ylabel("cross-entropy", fontsize=12)
    right.set_title("Test accuracy", fontsize=14)
    right.set_ylabel("%", fontsize=12)
    right.set_ylim(*_accuracy_range(results))
    left.legend(frameon=False, fontsize=12)
    right.legend(frameon=False, fontsize=12, loc="lower right")
    for axes in both:
        axes.set_xlabel("step", fontsize=12)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", which="major")
        axes.set_xlim(0, results[0].steps[-1])


def _accuracy_range(results: list[Result]) -> tuple[float, float]:
    """From the lowest accuracy after a tenth of the steps up to the best, so that the ends of the curves are apart."""
    low = min(100 * result.test_accuracy[len(result.test_accuracy) // 10] for result in results)
    high = max(100 * max(result.test_accuracy) for result in results)
    return low - 1, min(100.0, high + 1)
