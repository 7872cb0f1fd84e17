"""Our integers and fixed-point numbers against plain definitions, and against the published headers where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import pytest

from edgeq.emit.host_compiler import host_compiler

OURS = Path(__file__).parents[2] / "runtimes" / "hls" / "host"
QUANTIZATION = ("AP_RND", "AP_RND_ZERO", "AP_RND_MIN_INF", "AP_RND_INF", "AP_RND_CONV", "AP_TRN", "AP_TRN_ZERO")
OVERFLOW = ("AP_SAT", "AP_SAT_ZERO", "AP_SAT_SYM", "AP_WRAP")


def _published() -> Path | None:
    """The folder of ap_int.h that the hls4ml wheel carries, installed beside the environment."""
    places = [os.environ.get("EDGEQ_AP_TYPES", "")]
    places += [str(p) for p in Path(sys.prefix).glob("hls4ml/lib/*/site-packages/hls4ml/templates/vivado/ap_types")]
    return next((Path(p) for p in places if p and (Path(p) / "ap_int.h").exists()), None)


def _output(source: str, headers: Path, folder: Path) -> list[str]:
    file = folder / f"{headers.name}.cpp"
    file.write_text(source)
    flags = ["-std=c++14", "-O0", "-w", "-I", str(headers)]
    subprocess.run([host_compiler("C++"), *flags, "-o", file.with_suffix(""), file], check=True, capture_output=True)
    return subprocess.run([file.with_suffix("")], capture_output=True, text=True, check=True).stdout.splitlines()


def _conversions() -> str:
    """Every raw value of <7,4> and of unsigned <6,3> to <5,3>, under every rule; ranges come out as integers."""
    lines = "".join(
        f"    convert<ap_{kind}fixed<5, 3, {q}, {v}> >();\n"
        for kind in ("", "u")
        for q in QUANTIZATION
        for v in OVERFLOW
    )
    return f"""#include "ap_fixed.h"
#include <cstdio>
template <class To> void convert()
{{
    for (int raw = -64; raw < 64; raw++) {{
        ap_fixed<7, 4> from;
        from.range() = ap_int<7>(raw);
        To to = from;
        std::printf("%g ", to.to_double());
    }}
    for (int raw = 0; raw < 64; raw++) {{
        ap_ufixed<6, 3> from;
        from.range() = ap_uint<6>(raw);
        To to = from;
        std::printf("%g ", to.to_double());
    }}
    std::printf("\\n");
}}
int main()
{{
{lines}}}
"""


def _rounded(x: Fraction, mode: str) -> int:
    low, tie = floor(x), x - floor(x) == Fraction(1, 2)
    nearest = floor(x + Fraction(1, 2))
    match mode:
        case "AP_TRN":
            return low
        case "AP_TRN_ZERO":
            return low if x >= 0 else ceil(x)
        case "AP_RND":
            return nearest
        case "AP_RND_MIN_INF":
            return low if tie else nearest
        case "AP_RND_ZERO":
            return (low if x >= 0 else low + 1) if tie else nearest
        case "AP_RND_INF":
            return (low + 1 if x >= 0 else low) if tie else nearest
        case _:
            return low + low % 2 if tie else nearest


def _held(number: int, low: int, high: int, mode: str) -> int:
    least = -high if mode == "AP_SAT_SYM" and low else low
    if mode == "AP_WRAP":
        return (number - low) % 32 + low
    if least <= number <= high:
        return number
    if mode == "AP_SAT_ZERO":
        return 0
    return high if number > high else least


def test_fixed_point_conversions_follow_their_definitions(tmp_path: Path) -> None:
    found = _output(_conversions(), OURS, tmp_path)
    sources = [Fraction(raw, 8) for raw in range(-64, 64)] + [Fraction(raw, 8) for raw in range(64)]
    wanted = [
        [_held(_rounded(x * 4, q), low, low + 31, v) / 4 for x in sources]
        for low in (-16, 0)
        for q in QUANTIZATION
        for v in OVERFLOW
    ]
    assert [[float(number) for number in line.split()] for line in found] == wanted
    assert len({number for line in wanted for number in line}) > 40


OPERATIONS = """#include "ap_fixed.h"
#include <cstdio>
#define SHOW(e) std::printf("%lld/%d ", (long long)(e).to_int64(), (e).length())
template <class A, class B> void pair()
{
    const int numbers[] = {-300, -129, -128, -77, -9, -8, -1, 0, 1, 2, 5, 7, 8, 15, 16, 100, 127, 128, 255, 1000};
    for (int i : numbers) {
        for (int j : numbers) {
            A a = i;
            B b = j;
            SHOW(a + b); SHOW(a - b); SHOW(a * b); SHOW(a & b); SHOW(a | b); SHOW(a ^ b); SHOW(-a); SHOW(a >> 2); SHOW(a << 3);
            SHOW(a + 3); SHOW(5 - b);
            std::printf("%d%d%d%d%d%d%d ", (int)(a < b), (int)(a > b), (int)(a <= b), (int)(a >= b), (int)(a == b), (int)(a != b), (int)a[2]);
            a += b;
            SHOW(a);
            a *= b;
            SHOW(a);
            ap_fixed<9, 5> f = a;
            f.range() = a;
            ap_ufixed<6, 2> g = b;
            std::printf("%g %g %g %g\\n", (f + g).to_double(), (f - g).to_double(), (f * g).to_double(), f.to_double());
        }
    }
}
int main()
{
    pair<ap_int<8>, ap_int<8> >();
    pair<ap_int<8>, ap_uint<5> >();
    pair<ap_uint<7>, ap_int<13> >();
    pair<ap_uint<8>, ap_uint<8> >();
    pair<ap_int<33>, ap_int<17> >();
    double reals[] = {0.0, 0.3, -0.3, 1.96875, -4.03125, 7.99, 100.0, -100.0, 1e-9, -1e-9};
    for (double x : reals) {
        ap_fixed<8, 3, AP_RND, AP_SAT> f = x;
        ap_fixed<8, 3> g = x;
        std::printf("%g %g\\n", f.to_double(), g.to_double());
    }
}
"""


def test_integers_grow_and_wrap(tmp_path: Path) -> None:
    """The first pair, -300 and -300 in eight bits, by hand: -44 each."""
    first = _output(OPERATIONS, OURS, tmp_path)[0].split()
    assert first[:11] == [
        "-88/9",
        "0/9",
        "1936/16",
        "-44/8",
        "-44/8",
        "0/8",
        "44/9",
        "-11/8",
        "-96/8",
        "-41/33",
        "49/33",
    ]
    assert first[11] == "0011101"[:7] or first[11] == "0011101"


def test_they_agree_with_the_published_headers(tmp_path: Path) -> None:
    published = _published()
    if published is None:
        pytest.skip("the published headers are not installed")
    for source in (OPERATIONS, _conversions()):
        ours, theirs = _output(source, OURS, tmp_path), _output(source, published, tmp_path)
        assert ours == theirs and len(ours) > 20
