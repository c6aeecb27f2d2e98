"""What a module declares when it runs goes to the call of `with_losses`, to memory, or into the collection `losses`."""

from typing import Any

import flax.linen as nn

from jaxreg._core.regularizer import Regularizer
from jaxreg.linen import _declarations, _plain, _weights


def declare(module: nn.Module, found: dict[str, tuple[Regularizer, Any]]) -> None:
    """Note which parameter has which regularizer. Under plain `apply`, put the penalties into `losses` if mutable."""
    jitted, root, own_path = _declarations.jitted(module), _declarations.root_of(module), "/".join(module.path)
    axes = _weights.removed_axes(module.variables["params"]) if found else {}
    declared = {
        "/".join((*module.path, path)): _declarations.Declared(
            regularizer, leaf.shape, own_path, jitted, axes.get(path)
        )
        for path, (regularizer, leaf) in found.items()
    }
    _declarations.remember(root, declared, own_path)
    current = _declarations.pass_of(module, root)
    if current is not None:
        current.ran.add(own_path)
        current.declared.update(declared)
    if module.is_initializing():
        return
    if current is not None:  # `with_losses` computes the penalties from the stored parameters, after the call
        content = tuple((p, reg, leaf.shape, axes.get(p)) for p, (reg, leaf) in found.items())
        _declarations.note(module, _declarations.DECLARED, content)
    elif module.is_mutable_collection(_declarations.LOSSES):
        for path, (regularizer, leaf) in found.items():
            _plain.check_branch(module, root, regularizer, path)
            _plain.check_free(module, root, path)
            _plain.check_counted_once(module, root, regularizer, path, leaf)
            module.sow(
                _declarations.LOSSES, path, regularizer(leaf), init_fn=lambda: None, reduce_fn=lambda _, new: new
            )
    else:
        for path, (regularizer, _) in found.items():
            _plain.check_asked(module, root, regularizer, path)
