"""What Linen and NNX modules declare is read here: `<parameter>_regularizer`, rules for modules, stacks of layers."""

import itertools
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import Struct
from jaxreg._core.structure import Reach
from jaxreg._core.text import place, places
from jaxreg._rules.patterns import Pattern, Rule, meant, pattern_beside_paths

SUFFIX = "_regularizer"
ACTIVITY = "activity"
T = TypeVar("T")

Shape = tuple[int, ...]
Known = tuple[int | None, ...]  # the shape in one layer; None for a length that nothing tells

# Where attention keeps the parameters that its `kernel_`, `bias_` and `scale_regularizer` are for.
ATTENTION: Mapping[str, tuple[str, ...]] = {
    "kernel": ("query/kernel", "key/kernel", "value/kernel", "out/kernel"),
    "bias": ("query/bias", "key/bias", "value/bias", "out/bias"),
    "scale": ("query_ln/scale", "key_ln/scale"),
}


def module_regularizer(owner: str, attribute: str, value: Any) -> Regularizer:
    """Return what a module was given as `attribute`, as the regularizer of one array."""
    try:
        return as_regularizer(value)
    except TypeError:
        raise TypeError(
            f"`{owner}({attribute}=...)` takes a regularizer of one array, got {shown(value)}. Rules for a whole tree "
            "go into the loss or into `jaxreg.add_regularization`."
        ) from None


def no_regularizer(owner: str, attribute: str, value: Any) -> TypeError:
    """The error for a layer or a variable in the place of a regularizer."""
    return TypeError(
        f"`{owner}.{attribute} = {type(value).__name__}(...)`: an attribute of that name takes a regularizer of one "
        f"array, got {shown(value)}. Rename the attribute if it is none."
    )


@jax.jit
def evaluate(regularizers: dict[str, Regularizer], parameters: dict[str, Any]) -> dict[str, jax.Array]:
    """Return `{path: penalty}` from `{path: regularizer}` and `{path: parameter}`, in one compiled program."""
    return {path: regularizers[path](parameter) for path, parameter in parameters.items()}


def stacked_axes(stored: Known, own: Known) -> list[Shape]:
    """Return every set of axes that may be the stack: those without which the shape `stored` is that of one layer."""
    candidates = itertools.combinations(range(len(stored)), max(len(stored) - len(own), 0))
    return [axes for axes in candidates if _fits(tuple(n for i, n in enumerate(stored) if i not in axes), own)]


def _fits(shape: Known, own: Known) -> bool:
    return len(shape) == len(own) and all(k in (None, n) for n, k in zip(shape, own, strict=True))


def is_sum_over_entries(regularizer: Regularizer, stored: Shape) -> bool:
    """Whether the penalty of a stack is the sum over its layers, along whatever axis it is stacked.

    So it is for R(w) = Σ ρ(|w_i|), and for bounds and anchors that are numbers or of the shape of the whole stack. A
    bound or anchor of the shape of one layer belongs to each layer, whose axes then matter.
    """
    if regularizer.scalar() is not None:
        return True
    arrays = jax.tree.leaves(regularizer)
    return regularizer.reach is Reach.ENTRY and all(np.shape(array) in ((), stored) for array in arrays)


def applies(rule: Rule, path: str, subject: Any) -> bool:
    """Whether a rule is for the module of this path; a predicate is given `subject` too."""
    if path == "" and isinstance(rule.pattern, str):
        return rule.pattern in {"", "**"}  # `*` is one name, and the model itself has none
    return rule.matches(path, subject)


def fits_no_parameter(owner: str, attribute: str, regularizer: Any, place: str, paths: Collection[str]) -> ValueError:
    """The error for a regularizer of a parameter that the module does not have."""
    return ValueError(
        f"`{owner}({attribute}={shown(regularizer)})` fits no parameter of the module{place}: as configured, it has "
        f"{places(paths)}. Drop `{attribute}`, or give the module that parameter. A module that only hands a "
        "regularizer on to its layers keeps it under another name."
    )


def gives_no_output(owner: str, path: str, regularizer: Any) -> ValueError:
    """The error for a penalty of the output of a module that has none."""
    return ValueError(
        f"`{owner}(activity_regularizer={shown(regularizer)})`: the penalty is of the output of `__call__`, and the "
        f"module {named(path)} has no `__call__`. Give it to the layer whose output it is of."
    )


def no_module_matches(pattern: Pattern, paths: Collection[str], which: str = "module") -> ValueError:
    """The error for a rule that is for no module."""
    way_out = f" A glob is for the whole path: write {checks.short(glob)}." if (glob := meant(pattern, paths)) else ""
    return ValueError(
        f"`with_losses(activity=...)`: no {which} matches the pattern {pattern_beside_paths(pattern, paths)}.{way_out}"
    )


def named(path: str) -> str:
    """The path of a module in a message."""
    return place(path) or "(root)"


def shown(value: Any) -> str:
    """A short repr in which traced numbers, which have no value yet, are told by their types."""
    return checks.short(jax.tree.map(_Traced.of, value) if isinstance(value, (Struct, jax.core.Tracer)) else value)


def public_address(cls: type[T]) -> type[T]:
    """Name a public class of ours by its package, as in `jaxreg.linen.Dense`, so that pickles do not name its file."""
    package = cls.__module__.rpartition(".")[0]
    if package in {"jaxreg.linen", "jaxreg.nnx"} and not cls.__name__.startswith("_"):
        cls.__module__ = package
    return cls


class _Traced(str):
    @classmethod
    def of(cls, leaf: Any) -> Any:
        return cls(f"<traced {leaf.aval.str_short()}>") if isinstance(leaf, jax.core.Tracer) else leaf

    def __repr__(self) -> str:
        return str(self)
