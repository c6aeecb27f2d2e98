"""The penalties of outputs during one call of `with_losses`: which modules have one, and a check that none is lost."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import ACTIVITY, Shape, applies, gives_no_output, no_module_matches
from jaxreg._rules.patterns import Rule
from jaxreg.nnx._collect import zero
from jaxreg.nnx._declarations import Declarations, Declaring
from jaxreg.nnx._observe import patched
from jaxreg.nnx._outputs import ATTRIBUTE, PADDED, ActivityLoss, attach, local, raise_lost
from jaxreg.nnx._stacks import Unknown
from jaxreg.nnx._to_nnx import linen_modules
from jaxreg.nnx._twins import Twins

_epoch = 0  # part of the static metadata, so that a trace that loses a penalty is never taken from a cache


class Recording:
    """The modules whose outputs are penalized in one call, and where each of them adds its penalties up."""

    def __init__(self, declarations: Declarations, rules: Sequence[Rule], batch_axis: int | None) -> None:
        self.batch_axis = batch_axis
        self.modules: dict[str, nnx.Module] = {}
        self.rules: dict[str, Regularizer] = {}
        self.patched: set[type] = set()
        self.unknown = Unknown(declarations)
        self._unsettled: dict[str, Any] = {}
        self._choose(declarations, rules)
        self._stacks: dict[str, Shape] = {path: declarations.stack_of(one) for path, one in self.modules.items()}
        self.twins = Twins(declarations.nodes if self.modules else ())
        self.modules = {path: self.twins.of(one) for path, one in self.modules.items()}

    def _choose(self, declarations: Declarations, rules: Sequence[Rule]) -> None:
        used, paths = [False] * len(rules), []
        for path, module, regularizers in declarations.modules:
            if callable(module):
                paths.append(path)
                matching = [i for i, rule in enumerate(rules) if applies(rule, path, module)]
                for i in matching:
                    used[i] = True
                decided = rules[matching[0]].regularizer if matching else None
                if decided is not None:
                    self.rules[path] = decided
                    self.patched.add(type(module))
            if ACTIVITY in regularizers:
                if not callable(module):
                    raise gives_no_output(type(module).__name__, path, regularizers[ACTIVITY])
                if not isinstance(module, Declaring):
                    self.patched.add(type(module))
            if ACTIVITY in regularizers or path in self.rules:
                self.modules[path] = module
        self.patched.update(self.unknown.classes)
        self.patched.update(map(type, linen_modules(declarations)))
        if self.modules:
            self.patched.update(type(one) for _, one, _ in declarations.modules if isinstance(one, PADDED))
        for rule, was_used in zip(rules, used, strict=True):
            if not was_used:
                raise no_module_matches(rule.pattern, paths)

    @contextlib.contextmanager
    def of_call(self, inputs: Any) -> Iterator[None]:
        """Attach a fresh `ActivityLoss` to the twin of each module; hand the changes of the call back in the end."""
        outer = {path: vars(module).get(ATTRIBUTE) for path, module in self.modules.items()}
        start = zero(inputs if self.modules else ())
        try:
            for path, module in self.modules.items():
                value = jnp.broadcast_to(start, self._stacks[path])
                told: dict[str, Any] = {"path": path, "rule": self.rules.get(path), "batch_axis": self.batch_axis}
                attach(module, ActivityLoss(value, epoch=_epoch, **told))
            local.recordings.append(self)
            with patched(self.patched):
                yield
        finally:
            if local.recordings and local.recordings[-1] is self:
                local.recordings.pop()
            for path, module in self.modules.items():
                if ATTRIBUTE in vars(module):
                    delattr(module, ATTRIBUTE)
                if (loss := outer[path]) is not None:  # a call of `with_losses` inside another one
                    attach(module, loss)
            self.twins.hand_back()

    def losses(self) -> dict[str, jax.Array]:
        """Return `{path: penalty}`, summed over the calls and the layers of a stack."""
        for path in list(self._unsettled):
            self._settle(path)
        return {path: jnp.sum(self._recorded_total(path)) for path in self.modules}

    def twin_of(self, module: Any) -> Any:
        """The module that runs in this call in place of the given one."""
        return self.twins.of(module)

    def before_running(self, module: nnx.Module) -> None:
        """Raise if its weight penalty was taken of a whole stack of layers, and the module is one of them."""
        self.unknown.check(module)

    def before_adding(self, loss: Any) -> None:
        """Remember the total of a module that runs as a copy: unless the copy's total comes back, it is lost."""
        path = loss.get_metadata("path")
        if path not in self.modules:
            return
        if vars(self.modules[path]).get(ATTRIBUTE) is loss:
            self._settle(path)
        else:
            self._unsettled[path] = self._recorded_total(path)

    def _settle(self, path: str) -> None:
        """Raise if a copy of the module has added to its total, and the total of the module is still the old one."""
        if path in self._unsettled and self._unsettled.pop(path) is self._recorded_total(path):
            global _epoch
            _epoch += 1
            raise_lost(path)

    def _recorded_total(self, path: str) -> Any:
        loss = vars(self.modules[path]).get(ATTRIBUTE)
        if loss is None:
            raise_lost(path)
        return loss.get_raw_value()
