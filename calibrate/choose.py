"""The scale and zero point of a value, from its statistics and an estimator."""

from __future__ import annotations

import numpy as np

from edgeq.calibrate.estimators import Entropy, Estimator, MinMax, Mse, Octav, Percentile, clip_range
from edgeq.calibrate.grid import Density, expected_errors, grid_of_range, map_of
from edgeq.calibrate.statistics import Statistics
from edgeq.errors import UsageError, did_you_mean
from edgeq.formats import Int
from edgeq.ir.ops import Function

_NAMED: dict[str, type[Estimator]] = {
    "minmax": MinMax, "percentile": Percentile, "entropy": Entropy, "mse": Mse, "octav": Octav
}  # fmt: skip


def parse_estimator(name: str) -> Estimator:
    """The estimator that prints as `name`; raises UsageError for any other.

    >>> parse_estimator("percentile:99.9"), parse_estimator("mse")
    (Percentile(percent=99.9), Mse())
    """
    kind, colon, parameter = name.partition(":")
    chosen = _NAMED.get(kind)
    if chosen is None:
        hint = did_you_mean(kind, _NAMED)
        raise UsageError("unknown range estimator", value=name, allowed=", ".join(_NAMED), next_step=hint)
    if not colon:
        return chosen()
    limits = {MinMax: (1.0, 1e6), Percentile: (50.0, 100.0)}.get(chosen)
    if limits is None:
        raise UsageError("this estimator takes no parameter", value=name, allowed=kind)
    try:
        number = float(parameter)
    except ValueError:
        number = float("nan")
    if not limits[0] <= number <= limits[1]:
        raise UsageError("the estimator's parameter is out of range", value=name, allowed=f"{limits[0]} to {limits[1]}")
    return chosen(number)  # type: ignore[call-arg]  # the two with limits take one number


def choose(
    statistics: Statistics,
    format: Int,
    *,
    symmetric: bool,
    estimator: Estimator,
    through: Function | None = None,
) -> tuple[float, int]:
    """(scale, zero point): scale > 0 is exactly a float32, the zero point a code, and 0.0 is exactly a level.

    `through` is the function f that alone reads the value, if there is one: `Mse` then minimises the error after
    f. A value that was always zero gets the range [0, 1].
    """
    range_ = clip_range(statistics, format, symmetric=symmetric, estimator=estimator, through=map_of(through))
    low, high = (np.array([end]) for end in range_)
    scale, zero_point = grid_of_range(low, high, format, symmetric=symmetric)
    return float(scale[0]), int(zero_point[0])


def expected_error(
    statistics: Statistics, format: Int, scale: float, zero_point: int, through: Function | None = None
) -> float:
    """Mean of (f(Q(x)) - f(x))**2 over the observed values, as the histogram knows them; f is `through` or x."""
    f = map_of(through)
    grid = np.array([scale]), np.array([zero_point])
    total = expected_errors(Density.of(statistics, f), grid, format, f)
    return float(total[0]) / statistics.count
