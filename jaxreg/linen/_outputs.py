"""Penalties of outputs in the collection `losses`: of modules that declare one, and of those that a rule is for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn

from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import ACTIVITY, applies, named, shown
from jaxreg._flax.outputs import counts_padding, is_whole, output_penalty
from jaxreg._rules.patterns import Rule
from jaxreg.linen import _bridge, _declarations, _plain


def add(module: nn.Module, regularizer: Regularizer, output: Any) -> None:
    """Add the penalty of an output to the entry of the module in the collection `losses`, if that is mutable."""
    if module.is_initializing():
        return
    root = _declarations.root_of(module)
    current = _declarations.pass_of(module, root)
    path, sown = "/".join(module.path), module.is_mutable_collection(_declarations.LOSSES)
    rnn = current.padded if current is not None else _plain.padded() if sown else None
    if rnn is not None and not (rnn.path == module.path and is_whole(regularizer)):
        raise counts_padding(regularizer, path, rnn)
    if current is None and _declarations.in_nnx():
        raise ValueError(
            f"`jaxreg.nnx.with_losses`: `activity_regularizer={shown(regularizer)}` of the Linen module {named(path)} "
            "inside a `ToNNX` would be lost: NNX sees no calls inside. Penalize the output of the whole by a rule, "
            "`with_losses(model, activity=[(path of the ToNNX, regularizer)])`."
        )
    if not sown:
        if current is not None:
            _raise_lost(module)
        _plain.check_asked(module, root, regularizer, ACTIVITY)
        return
    if isinstance(module, nn.RNNCellBase):
        _, output = output  # the carry is the state, and often the output once more
    value = output_penalty(regularizer, output, 0 if current is None else current.batch_axis, path)
    if current is None:
        _plain.check_branch(module, root, regularizer, ACTIVITY)
    _plain.check_free(module, root, ACTIVITY)
    before = _before(module, root)
    if isinstance(before, Mapping):
        raise ValueError(
            f"`activity_regularizer`: the module {named('/'.join(module.path))} has a submodule of the name "
            f"{ACTIVITY!r}, and the penalty would stand under the same name in 'losses'. Rename the submodule."
        )
    if before is None:
        if current is not None and _declarations.in_branch(module):
            current.begun_in_branch[module.path] = value.dtype
    else:
        value = before + value
    module.sow(_declarations.LOSSES, ACTIVITY, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


def _raise_lost(module: nn.Module) -> None:
    raise ValueError(
        f"`with_losses`: the activity penalty of the module {named('/'.join(module.path))} would be lost, because "
        "a lifted transform around it (nn.scan, nn.vmap, nn.RNN) does not pass the collection 'losses' on. Give that "
        "transform `variable_axes={..., 'losses': 0}`, or penalize the output of the transformed module instead."
    )


def _before(module: nn.Module, root: nn.Module) -> Any:
    """The penalty of the module's earlier calls in this `apply`, without losses passed in; None in the first call."""
    assert module.scope is not None
    old: Any = module.get_variable(_declarations.LOSSES, ACTIVITY)
    if _declarations.pass_of(module, root) is not None:
        return old  # `with_losses` passes no losses in
    path = (*module.path, ACTIVITY)
    outer = _plain.passed_in(root, path)
    first_calls = root.__dict__.setdefault("_jaxreg_first_calls", {})
    if path not in first_calls:
        first_calls[path] = (module.scope.root, outer)
        return None
    # A lifted transform may trace its body twice. The second trace starts from what the caller passed in, as the first
    # did, unless a lifted call has returned in between and written its result to the outer scope.
    scope, outer_at_first = first_calls[path]
    retraced = scope is not module.scope.root and outer is not None and outer is outer_at_first
    return None if retraced else old


class Interceptor:
    """Penalize the output of each module by the first rule that matches its path; see where an RNN runs on padding."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.used: set[int] = set()
        self._running: dict[str, Any] = {}  # by path of the module, the `__call__` that began

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **kwargs)
        path = "/".join(module.path)
        current = _declarations.pass_of(module, _declarations.root_of(module))
        function = getattr(context.orig_method, "func", None)
        begun = self._running.get(path)
        if current is None or (path in self._running and begun is not function):
            return call(*args, **kwargs)  # `super().__call__`; the same function again is another call, of a recursion
        outer = current.padded
        if isinstance(module, (nn.RNN, nn.Bidirectional)) and kwargs.get("seq_lengths") is not None:
            current.padded = module
        self._running[path] = function
        try:
            output = call(*args, **kwargs)
            if _bridge.is_to_linen(module):
                _bridge.declare(module)
            self._penalize(module, path, current, output)
        finally:
            if begun is None:
                self._running.pop(path, None)
            current.padded = outer
        return output

    def _penalize(self, module: nn.Module, path: str, current: _declarations.Pass, output: Any) -> None:
        if not self.rules:
            return
        chosen = self.decide(path, output)
        current.called[path] = chosen
        _declarations.note(module, _declarations.CALLED, chosen)
        regularizer = None if chosen is None else self.rules[chosen].regularizer
        if regularizer is not None:
            add(module, regularizer, output)

    def decide(self, path: str, output: Any) -> int | None:
        """Return the number of the first rule that matches; mark every rule that does as used."""
        matching = [i for i, rule in enumerate(self.rules) if applies(rule, path, output)]
        self.used.update(matching)
        return matching[0] if matching else None
