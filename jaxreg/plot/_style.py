"""What all pictures share: colours for light and dark backgrounds, lines, axes, and the colours of weights."""

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

from jaxreg._core.text import printable

# The colours of Okabe and Ito, which colour-blind readers can tell apart, for a light and for a dark background.
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#444444")
DARK = ("#56B4E9", "#E69F00", "#A6F0D0", "#F5A3CB", "#F0E442", "#CCCCCC")
COLOURS = (LIGHT[-1], *LIGHT[:3])  # grey, blue, orange, green: the pictures of the commands, on white
DASHES = ("-", "--", "-.", ":")
# Small weights have about the colour of the background; exact zeros are grey and stand out from it.
_MAP_OF_LIGHT, _MAP_OF_DARK = "PuOr", "managua"
_ZERO_OF_LIGHT, _ZERO_OF_DARK = (0.75, 0.75, 0.75), (0.55, 0.55, 0.55)


def is_dark() -> bool:
    """Whether the current matplotlib style has a dark background."""
    r, g, b = colors.to_rgb(mpl.rcParams["axes.facecolor"])
    return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.5


def palette() -> tuple[str, ...]:
    """The colours of lines and bars."""
    return DARK if is_dark() else LIGHT


def lines() -> Iterator[dict[str, Any]]:
    """Colours and dashes of the first line, the second, and so on; the first 24 differ."""
    for dash, (i, colour) in itertools.cycle(itertools.product(range(len(DASHES)), enumerate(palette()))):
        yield {"color": colour, "linestyle": DASHES[(dash + i) % len(DASHES)], "linewidth": 2.0}


def new_axes(rows: int, columns: int, size: tuple[float, float]) -> NDArray[np.object_]:
    """The axes of a new figure, each of `size` inches."""
    height, width = rows * size[1], columns * size[0]
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")[1]


def given(axes: Any, n: int, call: str) -> NDArray[np.object_]:
    """The axes that a caller gave, as a flat array; raises unless there are `n`."""
    flat = np.asarray(axes, dtype=object).ravel()
    if flat.size != n or not all(isinstance(one, Axes) for one in flat):
        raise ValueError(f"`jaxreg.plot.{call}(axes=...)` takes {n} matplotlib axes here, got {flat.size} of {axes!r}.")
    return flat


def frame(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Set title and labels, and draw a faint grid."""
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=mpl.rcParams["text.color"], alpha=0.15, linewidth=0.8)


def name(text: str) -> str:
    """A name as matplotlib shows it: `$` begins no formula, and no legend leaves out one that begins with `_`."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def whole_numbers(axes: Axes) -> None:
    """Put ticks at whole numbers only, on linear axes."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            axis.set_major_locator(MaxNLocator(integer=True))


def log_scale(axes: Axes, which: str, *values: ArrayLike) -> None:
    """Make a scale logarithmic where no value is negative; with zeros, linear from 0 to the least positive value."""
    every = np.concatenate([np.ravel(np.asarray(value, float)) for value in values] or [np.zeros(0)])
    positive = every[np.isfinite(every) & (every > 0)]
    setter = axes.set_xscale if which == "x" else axes.set_yscale
    if positive.size and not (every < 0).any():
        if (every == 0).any():
            setter("symlog", linthresh=float(positive.min()))
        else:
            setter("log")


def paint(weights: NDArray[Any], scale: colors.Normalize) -> NDArray[np.uint8]:
    """The RGB colours of weights; exact zeros are grey."""
    image: NDArray[np.uint8] = colormaps[weight_map()](scale(np.real(weights).astype(np.float32)), bytes=True)[..., :3]
    image[np.asarray(weights) == 0] = np.round(255 * np.array(zero_colour()))
    return image


def weight_map() -> str:
    """The colour map of weights, from negative to positive."""
    return _MAP_OF_DARK if is_dark() else _MAP_OF_LIGHT


def zero_colour() -> tuple[float, float, float]:
    """The grey of exact zeros."""
    return _ZERO_OF_DARK if is_dark() else _ZERO_OF_LIGHT


def zero_patch() -> Patch:
    """The entry of exact zeros in a legend."""
    return Patch(facecolor=zero_colour(), edgecolor=mpl.rcParams["text.color"], label="exactly 0")
