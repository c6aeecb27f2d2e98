"""A measurement: a ratio with its spread, the limit that it has to keep, and whether it does."""

import dataclasses
import operator
from typing import Any

from tests.benchmarks import timing

_RULES = {"≤": operator.le, "<": operator.lt, "≥": operator.ge, "=": operator.eq}


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a number has to be: `Limit("≤", 1.05)`."""

    rule: str
    value: float

    def holds(self, value: float) -> bool:
        return bool(_RULES[self.rule](value, self.value))

    def __str__(self) -> str:
        return f"{self.rule} {self.value:g}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """`work` beside `against`: median, least and greatest ratio of the pairs; or one exact number in `unit`.

    The table of README.md has those with a limit and those that are only stated.
    """

    family: str
    work: str
    against: str
    median: float
    least: float
    greatest: float
    unit: str = "×"
    milliseconds: float | None = None
    limit: Limit | None = None
    stated: bool = False

    @property
    def reached(self) -> bool | None:
        return None if self.limit is None else self.limit.holds(round(self.median, 3))

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "reached": self.reached}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Measurement":
        limit = None if row["limit"] is None else Limit(**row["limit"])
        return cls(**{key: value for key, value in row.items() if key not in ("limit", "reached")}, limit=limit)


def ratios(
    family: str,
    work: str,
    times: dict[str, list[float]],
    limits: dict[str, Limit | None],
    ours: str = "jaxreg",
    stated: bool = False,
) -> list[Measurement]:
    """The time of `ours` over that of each other function of `limits` that was measured, pair by pair."""
    found = []
    for peer, limit in limits.items():
        if peer in times:
            pairs = [a / b for a, b in zip(times[ours], times[peer], strict=True)]
            spread = (timing.median(pairs), min(pairs), max(pairs))
            ms = 1e3 * timing.median(times[ours])
            found.append(Measurement(family, work, peer, *spread, milliseconds=ms, limit=limit, stated=stated))
    return found


def exact(family: str, work: str, against: str, value: float, unit: str, limit: Limit | None) -> Measurement:
    return Measurement(family, work, against, value, value, value, unit=unit, limit=limit)
