"""Plain `model.apply(variables, x, mutable=["losses"])` raises where it would be wrong; `with_losses` is right."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from jaxreg._core.regularizer import Regularizer
from jaxreg._core.text import place, places
from jaxreg._flax.declared import named, shown
from jaxreg.linen import _declarations

_LIFTED = "(nn.scan, nn.vmap, nn.RNN)"


def check_branch(module: nn.Module, root: nn.Module, regularizer: Regularizer, name: str) -> None:
    """Raise if a penalty begins in a branch: all branches must return the same collections, and others may have none.

    JAX would say so by the insides of Flax. `with_losses` begins all totals before the branches.
    """
    if _declarations.in_branch(module) and module.get_variable(_declarations.LOSSES, name) is None:
        raise _error(module, regularizer, name, "begins in a branch of `nn.cond` or `nn.switch`, which others may lack")


def check_asked(module: nn.Module, root: nn.Module, regularizer: Regularizer, name: str) -> None:
    """Raise if the caller asked for `losses`, and a lifted transform around the module does not hand them on."""
    if root.scope is not None and root.is_mutable_collection(_declarations.LOSSES):
        raise _error(
            module, regularizer, name, f"is lost: a lifted transform around the module does not pass it on {_LIFTED}"
        )


def padded() -> nn.Module | None:
    """The RNN that runs on padding around the module that runs now, if there is one.

    `with_losses` sees the calls. In a plain `apply` nothing but the call itself knows of its `seq_lengths`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        given = frame.f_locals
        module = given.get("self")
        if isinstance(module, (nn.RNN, nn.Bidirectional)):
            lengths = given.get("seq_lengths")
            if lengths is not None or (given.get("kwargs") or {}).get("seq_lengths") is not None:
                return module
        frame = frame.f_back
    return None


def check_counted_once(module: nn.Module, root: nn.Module, regularizer: Regularizer, name: str, leaf: Any) -> None:
    """Raise if a lifted transform runs the module several times with one parameter, and each run leaves a penalty."""
    assert module.scope is not None
    assert root.scope is not None
    if root.scope.debug_path:
        return  # the model is a transformed class itself, and hides what is stored
    lifts = sum(part.count("scan(") + part.count("vmap(") for part in module.scope.debug_path)
    stored: Any = root.variables.get("params", {}) if lifts else {}
    for part in (*module.path, *name.split("/")):
        stored = stored.get(part) if isinstance(stored, Mapping) else None
    if stored is not None and getattr(nn.unbox(stored), "ndim", 0) - leaf.ndim < lifts:  # an axis for each, in a stack
        raise _error(module, regularizer, name, f"counts once a run: a lifted transform repeats the module {_LIFTED}")


def check_free(module: nn.Module, root: nn.Module, name: str) -> None:
    """Raise if the module itself has sown into `losses` under the name that a penalty of ours is to have."""
    path = (*module.path, name)
    ours = root.__dict__.setdefault("_jaxreg_sown", set())
    found: Any = module.get_variable(_declarations.LOSSES, name)
    is_old = path in ours or passed_in(root, path) is not None  # of an earlier call of the module, or of the model
    if isinstance(found, tuple) or (hasattr(found, "dtype") and not is_old):
        raise sown_twice(["/".join(path)])
    ours.add(path)


def sown_twice(paths: list[str]) -> ValueError:
    return ValueError(
        f"The modules sow losses of their own under {places(paths)}, where the penalties of their regularizers stand. "
        "Sow them under other names, as in `self.sow('losses', 'own', value)`."
    )


def passed_in(root: nn.Module, path: tuple[str, ...]) -> Any:
    """What the caller has given to `apply` at a path in the collection `losses`."""
    found: Any = root.variables.get(_declarations.LOSSES)
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _error(module: nn.Module, regularizer: Regularizer, name: str, reason: str) -> ValueError:
    path = place("/".join((*module.path, name)))
    return ValueError(
        f"`apply(..., mutable=['losses'])`: the penalty {shown(regularizer)} of {path} in the module "
        f"{named('/'.join(module.path))} {reason}. Ask for the penalties by "
        "`jaxreg.linen.with_losses(model)(variables, x)`, or leave 'losses' out of `mutable`."
    )
