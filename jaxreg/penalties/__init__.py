"""The penalties, one final class a file, in one explicit tuple. A new one is its file, its line here, its test case."""

from jaxreg._regularizer import Function as Function
from jaxreg._regularizer import Regularizer as Regularizer
from jaxreg._regularizer import Scaled as Scaled
from jaxreg._regularizer import Sum as Sum
from jaxreg.penalties.l1 import L1 as L1
from jaxreg.penalties.l1l2 import L1L2 as L1L2
from jaxreg.penalties.l2 import L2 as L2
from jaxreg.penalties.orthogonal_regularizer import OrthogonalRegularizer as OrthogonalRegularizer
from jaxreg.penalties.stacked import Stacked as Stacked

PENALTIES: tuple[type[Regularizer], ...] = (
    L1,
    L2,
    L1L2,
    OrthogonalRegularizer,
    Stacked,
    Sum,
    Scaled,
    Function,
)
