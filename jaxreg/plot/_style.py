"""Colours for light and dark, lines, and the frame of every picture."""

import itertools
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps, colors
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

# Of Okabe and Ito, whose colours colour-blind readers tell apart; each on the background where it stands out.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#444444")
DARK = ("#56B4E9", "#E69F00", "#A6F0D0", "#F5A3CB", "#F0E442", "#CCCCCC")
DASHES = ("-", "--", "-.", ":")
# The middle of the map is the background, so that small weights recede; what is exactly 0 stands out from it.
_MAP_OF_LIGHT, _MAP_OF_DARK = "PuOr", "managua"
_ZERO_OF_LIGHT, _ZERO_OF_DARK = (0.75, 0.75, 0.75), (0.55, 0.55, 0.55)


def is_dark() -> bool:
    """Whether the style that is set has a dark background."""
    r, g, b = colors.to_rgb(mpl.rcParams["axes.facecolor"])
    return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.5


def palette() -> tuple[str, ...]:
    """The colours of lines and bars."""
    return DARK if is_dark() else LIGHT


def lines() -> Iterator[dict[str, Any]]:
    """Colours and dashes for one line after the other: 24 that differ."""
    for dash, (i, colour) in itertools.cycle(itertools.product(range(len(DASHES)), enumerate(palette()))):
        yield {"color": colour, "linestyle": DASHES[(dash + i) % len(DASHES)], "linewidth": 2.0}


def new_axes(rows: int, columns: int, size: tuple[float, float]) -> NDArray[np.object_]:
    """The axes of a new figure, each of `size` inches."""
    height, width = rows * size[1], columns * size[0]
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")[1]


def given(axes: Any, n: int, call: str) -> NDArray[np.object_]:
    """The axes that a caller gave, checked in number."""
    flat = np.asarray(axes, dtype=object).ravel()
    if flat.size != n or not all(isinstance(one, Axes) for one in flat):
        raise ValueError(f"`jaxreg.plot.{call}(axes=...)` takes {n} matplotlib axes here, got {flat.size} of {axes!r}.")
    return flat


def frame(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Title, labels, and a grid that recedes."""
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=mpl.rcParams["text.color"], alpha=0.15, linewidth=0.8)


def whole_numbers(axes: Axes) -> None:
    """Ticks at whole numbers only, where the axes count."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(integer=True))


def log_scale(axes: Axes, which: str, *values: ArrayLike) -> None:
    """A logarithmic scale where all values that are there are positive; linear from 0 to the least one otherwise."""
    every = np.concatenate([np.ravel(np.asarray(value, float)) for value in values] or [np.zeros(0)])
    positive = every[np.isfinite(every) & (every > 0)]
    setter = axes.set_xscale if which == "x" else axes.set_yscale
    if positive.size and not (every < 0).any():
        if (every == 0).any():
            setter("symlog", linthresh=float(positive.min()))
        else:
            setter("log")


def paint(weights: NDArray[Any], scale: colors.Normalize) -> NDArray[np.uint8]:
    """The colours of weights, one RGB for each; exact zeros have a grey of their own."""
    image: NDArray[np.uint8] = colormaps[weight_map()](scale(np.real(weights).astype(np.float32)), bytes=True)[..., :3]
    image[np.asarray(weights) == 0] = np.round(255 * np.array(zero_colour()))
    return image


def weight_map() -> str:
    """The colour map of weights, from negative to positive."""
    return _MAP_OF_DARK if is_dark() else _MAP_OF_LIGHT


def zero_colour() -> tuple[float, float, float]:
    """The colour of what is exactly 0."""
    return _ZERO_OF_DARK if is_dark() else _ZERO_OF_LIGHT


def zero_patch() -> Patch:
    """The entry of a legend for what is exactly 0."""
    return Patch(facecolor=zero_colour(), edgecolor=mpl.rcParams["text.color"], label="exactly 0")
