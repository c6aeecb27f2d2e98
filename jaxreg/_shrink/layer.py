"""One layer of a network as arrays: its units (last axis), and what it reads of the units before it."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxreg._core.checks import short
from jaxreg._core.text import places

Mask = NDArray[np.bool_]

_WEIGHTS = ("kernel", "embedding")
_KNOWN = (*_WEIGHTS, "bias", "scale", "mean", "var")
_LINEN_CONV = re.compile(r"(.*/)?Conv_[0-9]+")  # the name that Linen gives to a `Conv`


class Layer:
    """The arrays of a dense layer, a convolution, an embedding or a batch normalization; `drop` makes them smaller."""

    def __init__(self, name: str, leaves: dict[str, Any], transposed: bool | None) -> None:
        """Find `name/...`, or `collection/name/...` where there are collections, among leaves by their paths.

        A kernel in `arrays` is (..., in, out); `transposed`: whether the leaf is (..., out, in), None if nobody said.
        """
        self.name, self.transposed = name, transposed
        self.paths = _paths_of(name, leaves)
        self.arrays = {key: self._turned(key, np.asarray(leaves[path])) for key, path in self.paths.items()}
        self.is_norm = {"mean", "var"} <= set(self.arrays)
        self.weights = next((key for key in _WEIGHTS if key in self.arrays), None)
        self._check()

    def leaves(self) -> dict[str, NDArray[Any]]:
        """The arrays by their paths, as they were given."""
        return {path: self._turned(key, self.arrays[key]) for key, path in self.paths.items()}

    def _turned(self, key: str, array: NDArray[Any]) -> NDArray[Any]:
        return np.swapaxes(array, -2, -1) if self.transposed and key == "kernel" and array.ndim > 1 else array

    def _check(self) -> None:
        unknown = sorted(set(self.arrays) - set(_KNOWN))
        if unknown or (self.weights is None and not self.is_norm):
            why = ""
            if not unknown and set(self.arrays) <= {"scale", "bias"}:
                why = " A norm without running statistics mixes its units, so that none can be removed alone."
            raise ValueError(
                f"`shrink(graph=...)`: {short(self.name)} is no dense layer, convolution, embedding or batch "
                f"normalization; it holds {sorted(self.arrays)[:8]}.{why}"
            )
        matrix = self.arrays[self.weights] if self.weights else None
        if matrix is not None and matrix.ndim < 2:
            raise ValueError(
                f"`shrink(graph=...)`: {short(self.name)} has weights of shape {matrix.shape}, not (in, out)."
            )
        for key, array in self.arrays.items():
            if key != self.weights and array.shape != (self.units,):
                is_turned = matrix is not None and matrix.ndim > 2 and array.shape == (matrix.shape[-2],)
                raise ValueError(
                    f"`shrink(graph=...)`: {short(self.name)} has {self.units} units, but {key!r} has the shape "
                    f"{array.shape}; stacked layers and layers of several axes cannot shrink."
                    f"{self._if_transposed() if is_turned else ''}"
                )

    @property
    def units(self) -> int:
        return int(self.arrays[self.weights or "mean"].shape[-1])

    def constant(self) -> tuple[Mask, NDArray[Any]]:
        """Which units give the same output for every input, and that output (before the activation)."""
        gain = "scale" if self.is_norm else self.weights
        weights = self.arrays.get(str(gain), np.ones(self.units))
        zero = np.zeros(self.units, weights.dtype)
        return _all_but_last(weights == 0), self.arrays.get("bias", zero)

    def keeps_zero(self) -> Mask:
        """Which units of a norm give 0 where the unit before it is always 0."""
        bias = self.arrays.get("bias", np.zeros(self.units))
        return (self.arrays["mean"] == 0) & (bias == 0)

    def ignores(self, units: int) -> Mask:
        """Which of the units before it this layer multiplies by nothing but zeros."""
        return _all_but_last(np.moveaxis(self._by_unit(units) == 0, -2, -1))

    def reads_each_once(self, units: int) -> bool:
        kernel = self.arrays["kernel"]
        return kernel.ndim == 2 and kernel.shape[0] == units

    def add_to_bias(self, units: Mask, outputs: NDArray[Any]) -> None:
        """Put the part that constant units contribute into the bias."""
        bias, kernel = self.arrays["bias"], self.arrays["kernel"]
        wide = np.result_type(bias, np.float32)
        part = outputs[units].astype(wide) @ kernel[units].astype(wide)
        self.arrays["bias"] = (bias.astype(wide) + part).astype(bias.dtype)

    def drop(self, keep: Mask) -> None:
        """Keep some units."""
        self.arrays = {name: array[..., keep] for name, array in self.arrays.items()}

    def drop_inputs(self, keep: Mask) -> None:
        """Keep the weights of some of the units before it."""
        by_unit = self._by_unit(len(keep))[..., keep, :]
        shape = self.arrays["kernel"].shape
        self.arrays["kernel"] = by_unit.reshape(*shape[:-2], -1, shape[-1])

    def check_inputs(self, units: int, producer: str) -> None:
        kernel = self.arrays.get("kernel")
        if kernel is None:
            raise ValueError(f"`shrink(graph=...)`: {short(self.name)} has no kernel, so it cannot be a consumer.")
        if not self.can_read(units):
            only = "no multiple of it" if kernel.ndim == 2 else "and reads each channel once"
            way_out = self._if_transposed() if kernel.ndim > 2 and kernel.shape[-1] == units else ""
            raise ValueError(
                f"`shrink(graph=...)`: {short(producer)} has {units} units, but {short(self.name)} has a kernel of "
                f"shape {short(kernel.shape)} with {kernel.shape[-2]} inputs, {only}.{way_out}"
            )

    def can_read(self, units: int) -> bool:
        """Whether so many units fit its inputs: only a dense layer reads them at several positions."""
        inputs = self.arrays["kernel"].shape[-2]
        return inputs == units or (self.arrays["kernel"].ndim == 2 and inputs > 0 and inputs % units == 0)

    def check_orientation(self, readers: list["Layer"], alone: bool) -> None:
        """Raise if the kernel may be (..., in, out) or (..., out, in): where both fit the network, we cannot know.

        Args:
            readers: the layers that read the units.
            alone: whether no other layer has the same units.
        """
        kernel = self.arrays.get("kernel")
        if self.transposed is not None or kernel is None or kernel.ndim < 3 or _LINEN_CONV.fullmatch(self.name):
            return
        inputs, outputs = kernel.shape[-2:]
        fits = alone and "bias" not in self.arrays and all(reader.can_read(inputs) for reader in readers)
        if inputs == outputs or (inputs and readers and fits):
            raise ValueError(
                f"`shrink(graph=...)`: the kernel of {short(self.name)} has the shape {short(kernel.shape)}, which "
                "may be (..., in, out), as in `Conv`, or (..., out, in), as in `ConvTranspose(transpose_kernel=True)`. "
                f"Name all modules of the second form, `transposed=[{short(self.name)}]`, or write `transposed=[]` if "
                "there is none."
            )

    def _if_transposed(self) -> str:
        return (
            " If its kernel is (..., out, in), as in `ConvTranspose(transpose_kernel=True)`, name it, and all others "
            f"of this form: `transposed=[{short(self.name)}]`."
        )

    def _by_unit(self, units: int) -> NDArray[Any]:
        """The kernel as (..., positions, units, out): after a convolution, flattening puts the channels last."""
        kernel = self.arrays["kernel"]
        return kernel.reshape(*kernel.shape[:-2], -1, units, kernel.shape[-1])


def _all_but_last(true: Mask) -> Mask:
    return np.asarray(true.reshape(-1, true.shape[-1]).all(axis=0))


def _paths_of(name: str, leaves: dict[str, Any]) -> dict[str, str]:
    in_collections = "params" in {path.partition("/")[0] for path in leaves}
    inside = {path: path.partition("/")[2] if in_collections else path for path in leaves}
    own = [path for path in leaves if inside[path].startswith(name + "/")]
    if not own:
        modules = sorted({path.rpartition("/")[0] for path in inside.values()})
        raise ValueError(f"`shrink(graph=...)`: there is no module {short(name)}; modules are {short(modules)}.")
    found = {inside[path].removeprefix(name + "/"): path for path in own}
    if len(found) < len(own):
        raise ValueError(
            f"`shrink`: two collections have the same arrays of {short(name)}: {places(own)}. Shrink one at a time."
        )
    return found
