"""The penalties, one final class a file, in one explicit tuple. A new one is its file, its line here, its test case."""

from jaxreg._core.regularizer import Function as Function
from jaxreg._core.regularizer import Regularizer as Regularizer
from jaxreg._core.regularizer import Scaled as Scaled
from jaxreg._core.regularizer import Sum as Sum
from jaxreg.penalties.anchored import Anchored as Anchored
from jaxreg.penalties.box import Box as Box
from jaxreg.penalties.difference import Difference as Difference
from jaxreg.penalties.group import Group as Group
from jaxreg.penalties.hoyer_square import HoyerSquare as HoyerSquare
from jaxreg.penalties.huber import Huber as Huber
from jaxreg.penalties.l0 import L0 as L0
from jaxreg.penalties.l1 import L1 as L1
from jaxreg.penalties.l1_ball import L1Ball as L1Ball
from jaxreg.penalties.l1l2 import L1L2 as L1L2
from jaxreg.penalties.l2 import L2 as L2
from jaxreg.penalties.log_sum import LogSum as LogSum
from jaxreg.penalties.lq import Lq as Lq
from jaxreg.penalties.matrix import Matrix as Matrix
from jaxreg.penalties.max_norm import MaxNorm as MaxNorm
from jaxreg.penalties.mcp import MCP as MCP
from jaxreg.penalties.monotone import Monotone as Monotone
from jaxreg.penalties.n_of_m import NofM as NofM
from jaxreg.penalties.non_negative import NonNegative as NonNegative
from jaxreg.penalties.orthogonal_regularizer import OrthogonalRegularizer as OrthogonalRegularizer
from jaxreg.penalties.rank import Rank as Rank
from jaxreg.penalties.scad import SCAD as SCAD
from jaxreg.penalties.simplex import Simplex as Simplex
from jaxreg.penalties.slope import SLOPE as SLOPE
from jaxreg.penalties.soft_orthogonal import SoftOrthogonal as SoftOrthogonal
from jaxreg.penalties.spectral import Spectral as Spectral
from jaxreg.penalties.spectral_ball import SpectralBall as SpectralBall
from jaxreg.penalties.spectral_norm import SpectralNorm as SpectralNorm
from jaxreg.penalties.stacked import Stacked as Stacked
from jaxreg.penalties.stiefel import Stiefel as Stiefel
from jaxreg.penalties.top_k import TopK as TopK
from jaxreg.penalties.unit_norm import UnitNorm as UnitNorm
from jaxreg.penalties.weighted import Weighted as Weighted

PENALTIES: tuple[type[Regularizer], ...] = (
    L1,
    L2,
    L1L2,
    OrthogonalRegularizer,
    L0,
    Lq,
    LogSum,
    MCP,
    SCAD,
    Huber,
    Group,
    Spectral,
    SpectralNorm,
    SoftOrthogonal,
    HoyerSquare,
    SLOPE,
    Difference,
    Anchored,
    Weighted,
    Box,
    L1Ball,
    MaxNorm,
    Monotone,
    NofM,
    NonNegative,
    Rank,
    Simplex,
    SpectralBall,
    Stiefel,
    TopK,
    UnitNorm,
    Stacked,
    Matrix,
    Sum,
    Scaled,
    Function,
)
