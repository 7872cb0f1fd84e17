"""Every named format against its published definition, OCP's against gfloat and ml_dtypes; names, families, costs."""

from __future__ import annotations

from typing import Any

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from edgeq.catalogue import (
    FAMILIES,
    FP8_E4M3,
    FP8_E5M2,
    NAMED,
    Blocks,
    KMeans,
    Nupes,
    bits_per_weight,
    dense_shift,
    find_choice,
    power_law,
    short_name,
)
from edgeq.errors import UsageError
from edgeq.formats import Float, Format, Int, bits_of, decode, encode, level_range, level_table, parse_format
from edgeq.recipe import weight_format

LEVELS: dict[str, list[int]] = {
    "post2": [-127, 0, 127],
    "post3": [-127, -90, -64, 0, 64, 90, 127],
    "post4": [-127, -90, -64, -45, -32, -22, -16, 0, 16, 22, 32, 45, 64, 90, 127],
    "pot2": [-1, 0, 1],
    "pot3": [-4, -2, -1, 0, 1, 2, 4],
    "pot4": [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64],
    "pot5": [*(-(2**k) for k in range(14, -1, -1)), 0, *(2**k for k in range(15))],
    "dense1": [-1, 1],
    "dense2": [-2, -1, 1, 2],
    "dense3": [-8, -4, -2, -1, 1, 2, 4, 8],
    **{
        f"khot{bits}": [v for v in range(-top, top + 1) if bin(v ^ 3 * v).count("1") <= 2]
        for bits, top in ((5, 15), (6, 63), (7, 127))
    },
    "dense4": [*(-(2**k) for k in range(7, -1, -1)), *(2**k for k in range(8))],
}
OCP = {
    "fp8_e4m3": (gfloat.formats.format_info_ocp_e4m3, ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": (gfloat.formats.format_info_ocp_e5m2, ml_dtypes.float8_e5m2),
    "mxfp8_e4m3": (gfloat.formats.format_info_ocp_e4m3, ml_dtypes.float8_e4m3fn),
    "mxfp8_e5m2": (gfloat.formats.format_info_ocp_e5m2, ml_dtypes.float8_e5m2),
    "mxfp6_e3m2": (gfloat.formats.format_info_ocp_e3m2, ml_dtypes.float6_e3m2fn),
    "mxfp6_e2m3": (gfloat.formats.format_info_ocp_e2m3, ml_dtypes.float6_e2m3fn),
    "mxfp4": (gfloat.formats.format_info_ocp_e2m1, ml_dtypes.float4_e2m1fn),
}


def element(name: str) -> Float:
    found = FAMILIES[name].element if name in FAMILIES else NAMED[name]  # type: ignore[union-attr]
    assert isinstance(found, Float)
    return found


@pytest.mark.parametrize("name", [name for name in NAMED if not name.startswith("fp8")])
def test_every_table_has_its_published_levels(name: str) -> None:
    assert level_table(NAMED[name]).tolist() == LEVELS[name]
    assert bits_of(NAMED[name]) == int(name[-1])


@pytest.mark.parametrize("name", OCP)
def test_every_code_equals_gfloat_and_ml_dtypes(name: str) -> None:
    info, kind = OCP[name]
    format_ = element(name)
    codes = np.arange(1 << format_.bits)
    real: Any = codes.astype(np.uint8).view(kind).astype(np.float64)
    values = np.array([gfloat.decode_float(info, int(code)).fval for code in codes])
    finite = np.isfinite(values)
    assert np.array_equal(np.isfinite(real), finite)
    smallest = float(np.min(values[finite & (values > 0)]))
    levels = decode(format_, codes)
    assert np.array_equal(levels[finite] * smallest, values[finite])
    assert np.array_equal(levels[finite] * smallest, real[finite])
    assert (~finite).sum() == 2 * format_.specials
    assert set(np.abs(levels[~finite]).tolist()) <= {level_range(format_)[1]}
    assert np.isin(encode(format_, levels), codes[finite]).all()


@pytest.mark.parametrize("name", OCP)
def test_saturating_rounding_equals_gfloat(name: str) -> None:
    info, _ = OCP[name]
    format_ = element(name)
    smallest = 2.0 ** -(int(np.log2(level_range(format_)[1] / info.max)))
    targets = np.random.default_rng(1).normal(0, 0.4, 300) * level_range(format_)[1]
    targets[:100] *= np.exp2(np.random.default_rng(2).uniform(-10, 0, 100))
    expected = [gfloat.round_float(info, float(target * smallest), sat=True) / smallest for target in targets]
    assert decode(format_, encode(format_, targets)).tolist() == expected
    assert len(set(expected)) > 5 and level_range(format_)[1] in expected


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.85, 1.0])
def test_power_laws_are_uniform_in_their_power(bits: int, exponent: float) -> None:
    """NUPES: x = sign(q) (|q| / n)^(1/a), so (level / 127)^a lies within a rounding of q / n; a = 1 is the integer grid."""
    n = 2 ** (bits - 1) - 1
    expected = {round(127 * (q / n) ** (1 / exponent)) for q in range(n + 1)}
    table = power_law(bits, exponent).table
    assert set(table) == expected | {-level for level in expected} and list(table) == sorted(table)
    if exponent == 1.0 and bits == 8:
        assert table == tuple(range(-127, 128))


def test_names_read_back_and_unknown_ones_hint() -> None:
    for name in [*NAMED, *FAMILIES, "int4", "uint8", "e2m3", "ue4m1", "fx8.4"]:
        assert short_name(find_choice(name)) == name
    for format_ in (FP8_E4M3, FP8_E5M2):
        assert parse_format(str(format_)) == format_
    with pytest.raises(UsageError, match="Did you mean mxfp4"):
        find_choice("mxfpp4")
    assert weight_format("fp8_e4m3") == FP8_E4M3 and weight_format("dense3") == dense_shift(3)
    for name, hint in (
        ("kmeans4", "--weights and --format take it"), ("nupes4", "--weights"), ("mxfp4", "onnx-mxfp4.* is e2m1"),
        ("bfp6", "is int6"), ("e9m9", "1 to 5 exponent"), ("e0m3", "1 to 5 exponent"), ("e4m9", "at most 8 bits"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=hint):
            weight_format(name)


def test_what_a_weight_costs() -> None:
    assert bits_per_weight(KMeans(3)) == 3 and bits_per_weight(Nupes(5)) == 5 and bits_per_weight(Int(4)) == 4
    assert bits_per_weight(FAMILIES["mxfp4"]) == 4.25 and bits_per_weight(FAMILIES["int4g32"]) == 4.5
    assert bits_per_weight(FAMILIES["bfp6"]) == 6.5


def test_families_of_blocks_are_as_published() -> None:
    for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8"):
        family = FAMILIES[name]
        assert isinstance(family, Blocks) and family.size == 32 and family.power_of_two


@pytest.mark.parametrize(
    "call", [lambda: dense_shift(5), lambda: dense_shift(0), lambda: power_law(4, 0.0), lambda: power_law(9, 1)]
)
def test_tables_that_do_not_exist(call: Any) -> None:
    with pytest.raises(UsageError, match="bits"):
        call()


def test_specials_never_encode() -> None:
    top: Format = Float(3, 1, False, 2)
    assert encode(top, [1e9]).tolist() == [13] and decode(top, [13, 14, 15]).tolist() == [96, 96, 96]
