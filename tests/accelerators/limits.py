"""Every case compiles for a TPU and a GPU, and what reaches its limit there stays at it.

Only `.ci/run` and whoever asks for it runs this file, in an environment with the extra `aot`; without the compilers it
fails:

    python -m pytest tests/accelerators/limits.py
"""

from collections.abc import Iterator

import pytest

import jaxreg
from jaxreg._core.structure import Reach
from tests.accelerators import penalties, report, steps
from tests.accelerators.targets import TARGETS
from tests.accelerators.worker import Compilers

RESULTS = report.read(report.RESULTS)["results"]
SECONDS = 60  # of a processor: no program may take longer
SLOW = 0.5  # what took longer, by the committed results, is left to `python -m tests.accelerators`


@pytest.fixture(scope="module")
def compilers() -> Iterator[Compilers]:
    found = Compilers(SECONDS)
    yield found
    found.close()


OVER = {(result["work"], result["target"]) for result in RESULTS if "limit" in result}  # with all their programs
LONG = {report.key(result) for result in RESULTS if result.get("compile", 0) > SLOW}
CASES = [key for key in report.table() if key[0] == "penalties" and key not in LONG and (key[1], key[3]) not in OVER]

# Ratios to the yardsticks, for penalties that look at one entry at a time. Powers take more than the memory does.
ENTRIES = {"value": 1.05, "gradient": 1.05, "prox": 1.15, "prox, a step an entry": 1.15}
POWERS = {"prox": 2.8, "prox, a step an entry": 2.0}
SMALL = 100_000  # bytes: what the parts of a sum take, far below the 17 MB of the array


@pytest.mark.parametrize(("family", "work", "program", "target"), CASES, ids=lambda part: part)
def test_every_case_compiles_within_a_minute_and_an_elementwise_one_costs_what_the_memory_does(
    compilers: Compilers, family: str, work: str, program: str, target: str
) -> None:
    result = compilers.compile(family, work, program, target)
    assert "limit" not in result, f"more than {SECONDS} s"
    reg = penalties.penalties()[work]
    looks = program == "value" and isinstance(reg, jaxreg.Constraint)  # 0 in the set and ∞ outside: three reads
    if reg.reach is Reach.ENTRY and "refused" not in result and not looks:
        limit = POWERS.get(program, ENTRIES[program]) if work.startswith("Lq") else ENTRIES[program]
        assert result["ratio"] <= limit, result
        assert result["temporaries"] <= SMALL, result


SOON = 30  # seconds, on a machine with other work: eight on a quiet one. Whole products took 40 and more


@pytest.mark.parametrize("work", [repr(jaxreg.Spectral(jaxreg.L1(0.3))), repr(jaxreg.SpectralNorm(0.3))])
def test_spectra_compile_soon(compilers: Compilers, work: str) -> None:
    """The step of a polar factor, and σ₁: their products by panels, in no more cycles than the whole ones took."""
    result = compilers.compile("penalties", work, "value", "v5e")
    assert result["compile"] <= SOON and result["ratio"] <= 22, result


# Cycles on a TPU and bytes moved on a GPU, over those of the optimizer without the penalty.
STEPS = {
    "Adam, L1L2 coupled": 1.05,
    "Adam, L1L2 coupled, penalty tracked": 1.35,
    "Adam, L1L2 decoupled": 1.05,
    "proximal_adam, L1": 1.05,
    "keep_zeros(adam)": 1.05,
    "SGD, L1L2": 1.05,
    "proximal(sgd), L1": 1.05,
    "proximal(amsgrad), L1": 1.05,
    "proximal(adabelief), L1": 1.05,
    "proximal(rmsprop), L1": 1.05,
    "proximal(adagrad), L1": 1.05,
}
SENT = {"Adam, L1L2 coupled, penalty tracked": {"all-reduce": 1}}  # the sum; nothing else is sent between devices
FEW = ("Adam, L1L2 coupled, penalty tracked",)  # 10 s each for 1 024 chips: the one that sends something
WANTED = [(work, target) for work in STEPS for target in steps.ON if work in FEW or target != "v5p:8x8x16"]


@pytest.mark.parametrize(("work", "target"), WANTED, ids=lambda part: part)
def test_a_step_with_an_elementwise_penalty_costs_what_the_plain_one_does(
    compilers: Compilers, work: str, target: str
) -> None:
    result = compilers.compile("steps", work, "step", target)
    assert result["ratio"] <= STEPS[work], result
    assert result["temporaries"] <= 20 * SMALL, result
    divided = TARGETS[target].count > 1
    assert result["collectives"] == (SENT.get(work, {}) if divided else {}), result


# Groups are read once for their value; on a TPU the rest is held where it stands.
GROUPS = {
    "v5e": {"value": 1.15, "gradient": 2.15, "prox": 2.1},
    "H100": {"value": 1.2, "gradient": 1.62, "prox": 1.62},
}
OF_GROUPS = [repr(jaxreg.Group(jaxreg.L1(0.3), axis=axis)) for axis in (0, 1)]
ADAM_OF_GROUPS = "proximal_adam, groups that are whole"
STEPS_OF_GROUPS = {
    "proximal(adam), groups that are whole": 1.45,
    ADAM_OF_GROUPS: 1.42,
    "proximal_adam, one kernel, groups that are whole": 1.35,
    "proximal_adam, one kernel, groups that are divided": 1.35,
    "proximal_adam, groups across leaves": 1.45,
    "proximal_adam, moments by group, whole": 1.15,
    "proximal_adam, moments by group, divided": 1.12,
}
STEPS_ON_A_GPU = {  # arrays that are read and written, beside the seven of Adam
    "proximal_adam, groups that are whole": 10.3,
    "proximal_adam, groups that are divided": 12.3,
    "proximal_adam, one kernel, groups that are divided": 12.3,
    "proximal_adam, moments by group, whole": 8.1,
}


@pytest.mark.parametrize(("target", "program"), [(target, program) for target in GROUPS for program in GROUPS[target]])
@pytest.mark.parametrize("work", OF_GROUPS)
def test_groups(compilers: Compilers, work: str, target: str, program: str) -> None:
    """One read, and for gradient and `prox` another one with a write, along either axis."""
    result = compilers.compile("penalties", work, program, target)
    assert result["ratio"] <= GROUPS[target][program], result
    assert result["temporaries"] <= 20 * SMALL, result


@pytest.mark.parametrize("work", STEPS_OF_GROUPS)
def test_a_step_with_groups_that_are_whole(compilers: Compilers, work: str) -> None:
    """It sends nothing: leaves do not wait for each other there. Of a leaf of 67 MB `proximal` alone keeps an array."""
    for target in ("v5e", "v5p:8x8x16") if work == ADAM_OF_GROUPS else ("v5e",):
        result = compilers.compile("steps", work, "step", target)
        assert result["collectives"] == {}, result
        if target == "v5e":
            assert result["ratio"] <= STEPS_OF_GROUPS[work], result
            assert result["temporaries"] <= 50 * SMALL or work.startswith("proximal("), result


@pytest.mark.parametrize("work", STEPS_ON_A_GPU)
def test_a_step_with_groups_on_a_gpu(compilers: Compilers, work: str) -> None:
    """Nothing of the size of a leaf, 67 MB, is kept."""
    result = compilers.compile("steps", work, "step", "H100")
    assert result["ratio"] <= STEPS_ON_A_GPU[work] / 7, result
    assert result["temporaries"] <= 70 * SMALL, result


def test_groups_that_gpus_share_have_one_exchange(compilers: Compilers) -> None:
    """And groups that are whole have none."""
    for kind, collectives in (("divided", {"all-reduce": 1}), ("whole", {})):
        result = compilers.compile("steps", f"proximal_adam, groups that are {kind}", "step", "8 H100")
        assert result["collectives"] == collectives, result


def test_groups_across_leaves_on_a_gpu(compilers: Compilers) -> None:
    """Sums along columns without windows: one term of each leaf is kept. What several GPUs share is not sent whole."""
    result = compilers.compile("steps", "proximal_adam, groups across leaves", "step", "H100")
    assert result["ratio"] <= 1.9 and result["temporaries"] <= 1500 * SMALL, result
    result = compilers.compile("steps", "proximal_adam, groups across leaves", "step", "8 H100")
    assert result["ratio"] <= 1.9 and "all-to-all" not in result["collectives"], result


def test_blocks_are_read_once_and_written_once(compilers: Compilers) -> None:
    """On a TPU the comparisons take longer than the memory does."""
    for target, limit in (("v5e", 2.3), ("H100", 1.05)):
        result = compilers.compile("penalties", repr(jaxreg.NofM(1, 2)), "prox", target)
        assert result["ratio"] <= limit and result["temporaries"] <= SMALL, result
