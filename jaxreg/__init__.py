"""Regularizers for JAX: one object for the penalty, its subgradient, its proximal operator and its JSON."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from jaxreg import penalties as penalties
from jaxreg._core.constraint import Constraint as Constraint
from jaxreg._core.elementwise import Elementwise as Elementwise
from jaxreg._core.regularizer import Function as Function
from jaxreg._core.regularizer import Regularizer as Regularizer
from jaxreg._core.regularizer import Scaled as Scaled
from jaxreg._core.regularizer import Sum as Sum
from jaxreg._core.struct import coefficient as coefficient
from jaxreg._core.struct import static as static
from jaxreg._rules.identifiers import deserialize as deserialize
from jaxreg._rules.identifiers import get as get
from jaxreg._rules.identifiers import register as register
from jaxreg._rules.identifiers import serialize as serialize
from jaxreg._rules.joined import Joined as Joined
from jaxreg._rules.joint_group import JointGroup as JointGroup
from jaxreg._rules.patterns import Rule as Rule
from jaxreg._rules.patterns import is_weight as is_weight
from jaxreg._rules.tree import TreeRegularizer as TreeRegularizer
from jaxreg._rules.tree_budget import TreeBudget as TreeBudget
from jaxreg._rules.tree_penalty import TreeSum as TreeSum
from jaxreg.penalties import L0 as L0
from jaxreg.penalties import L1 as L1
from jaxreg.penalties import L1L2 as L1L2
from jaxreg.penalties import L2 as L2
from jaxreg.penalties import MCP as MCP
from jaxreg.penalties import SCAD as SCAD
from jaxreg.penalties import SLOPE as SLOPE
from jaxreg.penalties import Anchored as Anchored
from jaxreg.penalties import Box as Box
from jaxreg.penalties import Difference as Difference
from jaxreg.penalties import Group as Group
from jaxreg.penalties import HoyerSquare as HoyerSquare
from jaxreg.penalties import Huber as Huber
from jaxreg.penalties import L1Ball as L1Ball
from jaxreg.penalties import LogSum as LogSum
from jaxreg.penalties import Lq as Lq
from jaxreg.penalties import Matrix as Matrix
from jaxreg.penalties import MaxNorm as MaxNorm
from jaxreg.penalties import Monotone as Monotone
from jaxreg.penalties import NofM as NofM
from jaxreg.penalties import NonNegative as NonNegative
from jaxreg.penalties import OrthogonalRegularizer as OrthogonalRegularizer
from jaxreg.penalties import Rank as Rank
from jaxreg.penalties import Simplex as Simplex
from jaxreg.penalties import SoftOrthogonal as SoftOrthogonal
from jaxreg.penalties import Spectral as Spectral
from jaxreg.penalties import SpectralBall as SpectralBall
from jaxreg.penalties import SpectralNorm as SpectralNorm
from jaxreg.penalties import Stacked as Stacked
from jaxreg.penalties import Stiefel as Stiefel
from jaxreg.penalties import TopK as TopK
from jaxreg.penalties import UnitNorm as UnitNorm
from jaxreg.penalties import Weighted as Weighted

__version__ = "0.1.0"

# Keras' other names for the same classes
l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer

# What not every program needs, optax among it, is loaded when it is first asked for: `import jaxreg` does not pay for
# it. For type checkers the same names are imported below, and `dir` has them for completion.
_LAZY = {
    "AddRegularizationState": "jaxreg._optax.add_regularization",
    "BoundedState": "jaxreg._optax.bounded",
    "KeepNormsState": "jaxreg._optax.keep_norms",
    "KeepZerosState": "jaxreg._optax.keep_zeros",
    "Minimum": "jaxreg._solver.minimize",
    "ProximalState": "jaxreg._optax.proximal",
    "RegularizationPath": "jaxreg._strength.path",
    "activity": "jaxreg.activity",
    "adabelief_metric": "jaxreg._optax.metrics",
    "adagrad_metric": "jaxreg._optax.metrics",
    "adam_metric": "jaxreg._optax.metrics",
    "add_regularization": "jaxreg._optax.add_regularization",
    "amsgrad_metric": "jaxreg._optax.metrics",
    "bounded": "jaxreg._optax.bounded",
    "coefficient_max": "jaxreg._strength.coefficient_max",
    "duality_gap": "jaxreg._strength.duality_gap",
    "keep_norms": "jaxreg._optax.keep_norms",
    "keep_zeros": "jaxreg._optax.keep_zeros",
    "minima": "jaxreg._strength.minima",
    "minimize": "jaxreg._solver.minimize",
    "path": "jaxreg._strength.path",
    "proximal": "jaxreg._optax.proximal",
    "proximal_adam": "jaxreg._optax.proximal_adam",
    "rmsprop_metric": "jaxreg._optax.metrics",
    "shrink": "jaxreg._shrink.shrink",
    "sparsity": "jaxreg._reports.sparsity",
    "summary": "jaxreg._reports.summary",
    "units": "jaxreg._shrink.units",
}

# What needs a package of its own is imported by its full name.
_ENTRANCES = ("keras", "linen", "nnx", "plot")

if TYPE_CHECKING:
    from jaxreg import activity as activity
    from jaxreg._optax.add_regularization import AddRegularizationState as AddRegularizationState
    from jaxreg._optax.add_regularization import add_regularization as add_regularization
    from jaxreg._optax.bounded import BoundedState as BoundedState
    from jaxreg._optax.bounded import bounded as bounded
    from jaxreg._optax.keep_norms import KeepNormsState as KeepNormsState
    from jaxreg._optax.keep_norms import keep_norms as keep_norms
    from jaxreg._optax.keep_zeros import KeepZerosState as KeepZerosState
    from jaxreg._optax.keep_zeros import keep_zeros as keep_zeros
    from jaxreg._optax.metrics import adabelief_metric as adabelief_metric
    from jaxreg._optax.metrics import adagrad_metric as adagrad_metric
    from jaxreg._optax.metrics import adam_metric as adam_metric
    from jaxreg._optax.metrics import amsgrad_metric as amsgrad_metric
    from jaxreg._optax.metrics import rmsprop_metric as rmsprop_metric
    from jaxreg._optax.proximal import ProximalState as ProximalState
    from jaxreg._optax.proximal import proximal as proximal
    from jaxreg._optax.proximal_adam import proximal_adam as proximal_adam
    from jaxreg._reports.sparsity import sparsity as sparsity
    from jaxreg._reports.summary import summary as summary
    from jaxreg._shrink.shrink import shrink as shrink
    from jaxreg._shrink.units import units as units
    from jaxreg._solver.minimize import Minimum as Minimum
    from jaxreg._solver.minimize import minimize as minimize
    from jaxreg._strength.coefficient_max import coefficient_max as coefficient_max
    from jaxreg._strength.duality_gap import duality_gap as duality_gap
    from jaxreg._strength.minima import minima as minima
    from jaxreg._strength.path import RegularizationPath as RegularizationPath
    from jaxreg._strength.path import path as path
else:

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            hint = f": it is there after `import jaxreg.{name}`" if name in _ENTRANCES else ""
            # With `name` and `obj` Python says which name is near.
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=sys.modules[__name__]
            )
        file = _LAZY[name]
        module = import_module(file)
        found = module if file == f"{__name__}.{name}" else getattr(module, name)
        globals()[name] = found  # so that Python calls this once for each name
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY} - {"TYPE_CHECKING", "import_module", "sys"})

    __all__ = [name for name in __dir__() if not name.startswith("_")]  # for `from jaxreg import *` and `help`


# Pickles of version 0.1.0 look for our classes in these modules.
for _module in ("_regularizer", "_tree", "_proximal", "_transform", "_path"):
    sys.modules[f"{__name__}.{_module}"] = sys.modules[__name__]
