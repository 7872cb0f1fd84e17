"""Arithmetic units of designs as Verilog, synthesized for 7-series parts by Yosys, beside the model's figures.

A unit multiplies a weight's code with a level and adds it to a sum, as one lane of edgeq_conv.h does; the requantizers are
those of edgeq_requantize.h. Nothing here is measured on a device.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeq.emit.hls_numbers import adders, odd_part, product_bits
from edgeq.emit.hls_units import mac_luts, requantizer_luts
from edgeq.formats import E2M1, E2M3, INT4, INT8, POST4, POT4, Codebook, Float, Format, Int, bits_of, level_table

LEVEL_BITS, SUM_BITS, DROPPED = 8, 24, 8
FORMATS: dict[str, Format] = {
    "INT4": INT4, "INT8": INT8, "E2M1": E2M1, "E2M3": E2M3, "POST4": POST4, "POT4": POT4, "INT2": Int(2), "INT6": Int(6),
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """LUTs of one unit by the model and as synthesized."""

    name: str
    model: int
    synthesized: int

    @property
    def difference(self) -> float:
        """Model over synthesis, less one."""
        return self.model / self.synthesized - 1


def _mac(name: str, format_: Format) -> str:
    bits, width = bits_of(format_), product_bits(format_, (-128, 127))
    sign = "signed " if isinstance(format_, Int) else ""
    body, term = _product(format_, width)
    return f"""module {name}(input clk, input clear, input {sign}[{bits - 1}:0] w, input signed [{LEVEL_BITS - 1}:0] x,
    output reg signed [{SUM_BITS - 1}:0] sum);
{body}
{term}
endmodule
"""


def _product(format_: Format, width: int) -> tuple[str, str]:
    """Verilog of the product's magnitude, and the sum with it."""
    match format_:
        case Int():
            return _rows("w", bits_of(format_), is_signed=True), _adding("sum + product")
        case Float():
            e, m = format_.exponent, format_.mantissa
            mantissa = f"    wire [{m}:0] mantissa = {{|exponent, w[{m - 1}:0]}};\n"
            shifted = f"    (* keep *) wire signed [{width - 1}:0] large = product <<< (|exponent ? exponent - 1 : 0);"
            body = f"    wire [{e - 1}:0] exponent = w[{e + m - 1}:{m}];\n{mantissa}"
            return f"{body}{_rows('mantissa', m + 1, is_signed=False)}{shifted}", _signed(f"w[{e + m}]", width)
        case Codebook():
            return _chosen(format_, width), _signed("negative", width)
        case _:
            raise TypeError(format_)


def _adding(total: str) -> str:
    return f"    always @(posedge clk) if (clear) sum <= 0; else sum <= {total};"


def _signed(negative: str, width: int) -> str:
    """A sum whose adder inverts the product and carries one in."""
    flipped = f"    wire signed [{width - 1}:0] flipped = large ^ {{{width}{{{negative}}}}};\n"
    wide = f"    wire signed [{SUM_BITS}:0] total = {{sum, 1'b1}} + $signed({{flipped, {negative}}});\n"
    return flipped + wide + _adding(f"total[{SUM_BITS}:1]")


def _rows(factor: str, bits: int, *, is_signed: bool) -> str:
    """x times `factor`, a row of adders for each bit; `keep` holds them apart, as carry chains want them."""
    lines = f"    wire signed [{LEVEL_BITS}:0] row0 = {factor}[0] ? x : 0;\n"
    for k in range(1, bits):
        sign = "-" if is_signed and k == bits - 1 else "+"
        lines += (
            f"    (* keep *) wire signed [{LEVEL_BITS}:0] row{k} = (row{k - 1} >>> 1) {sign} ({factor}[{k}] ? x : 0);\n"
        )
    low = ", ".join(f"row{k}[0]" for k in reversed(range(bits - 1)))
    total = f"{{row{bits - 1}, {low}}}"
    return f"{lines}    wire signed [{LEVEL_BITS + bits - 1}:0] product = {total};\n"


def _chosen(format_: Codebook, width: int) -> str:
    """Multiples by adders, one chosen by the magnitude; codes are in the order of levels, 0 in the middle."""
    table = [int(level) for level in level_table(format_)]
    middle, bits = len(table) // 2, bits_of(format_)
    lines = f"    wire signed [{width - 1}:0] x1 = x;\n"
    for a in adders(table):
        size = LEVEL_BITS + a.number.bit_length()
        text = f"(x{a.left} <<< {a.shift}) {'+' if a.sign > 0 else '-'} x{a.right}"
        lines += f"    (* keep *) wire signed [{size - 1}:0] x{a.number} = {text};\n"
    cases = "".join(
        f"        {k}: large = x{odd_part(level)} <<< {(level // odd_part(level)).bit_length() - 1};\n"
        for k, level in enumerate(table[middle:])
        if level
    )
    return f"""    wire negative = w < {middle};
    wire [{bits - 1}:0] magnitude = negative ? {middle} - w : w - {middle};
    (* keep *) reg signed [{width - 1}:0] large;
{lines}    always @* case (magnitude)
{cases}        default: large = 0;
    endcase"""


def _requantizer(name: str, multiplier_bits: int) -> str:
    """x q + half, shifted right by DROPPED, saturated to 8 bits; without a multiplier the shift alone."""
    width = SUM_BITS + multiplier_bits
    scale = f"input [{multiplier_bits - 1}:0] q, " if multiplier_bits else ""
    rows = f"    wire signed [{SUM_BITS}:0] row0 = q[0] ? x : 0;\n" if multiplier_bits else ""
    for k in range(1, multiplier_bits):
        rows += f"    (* keep *) wire signed [{SUM_BITS}:0] row{k} = (row{k - 1} >>> 1) + (q[{k}] ? x : 0);\n"
    low = ", ".join(f"row{k}[0]" for k in reversed(range(multiplier_bits - 1)))
    product = f"$signed({{row{multiplier_bits - 1}, {low}}})" if multiplier_bits else "x"
    return f"""module {name}(input signed [{SUM_BITS - 1}:0] x, {scale}output signed [7:0] y);
{rows}    wire signed [{width}:0] raised = {product};
    wire signed [{width}:0] rounded = (raised + {1 << (DROPPED - 1)}) >>> {DROPPED};
    assign y = rounded > 127 ? 8'sd127 : rounded < -128 ? -8'sd128 : rounded[7:0];
endmodule
"""


def synthesized_luts(verilog: str, top: str) -> int:
    """LUTs of `top` in a 7-series part, without DSP slices. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "unit.v"
        file.write_text(verilog)
        script = f"read_verilog {file}; synth_xilinx -family xc7 -top {top} -nodsp -noiopad -flatten -nowidelut; tee -o {file}.txt stat"
        subprocess.run(["yosys", "-q", "-p", script], capture_output=True, text=True, check=True)
        statistics = Path(f"{file}.txt").read_text()
    return sum(int(count) for _, count in re.findall(r"^\s+(LUT\d)\s+(\d+)$", statistics, re.MULTILINE))


def mac_unit(name: str) -> Unit:
    """The multiply-accumulate of a format of FORMATS."""
    format_, top = FORMATS[name], f"mac_{name.lower()}"
    return Unit(name, mac_luts(format_, LEVEL_BITS, SUM_BITS), synthesized_luts(_mac(top, format_), top))


def units() -> list[Unit]:
    """Every unit, by the model and by Yosys."""
    found = [mac_unit(name) for name in FORMATS]
    for bits in (0, 16):
        top = f"requantize_{bits}"
        label = f"requantizer, {bits} bits of multiplier" if bits else "requantizer, shift"
        found.append(
            Unit(label, requantizer_luts(SUM_BITS, bits, DROPPED, 8), synthesized_luts(_requantizer(top, bits), top))
        )
    return found


def main() -> None:
    """Print the table."""
    print("| unit | model | Yosys | difference |\n|---|---|---|---|")
    for unit in units():
        print(f"| {unit.name} | {unit.model} | {unit.synthesized} | {unit.difference:+.0%} |", flush=True)


if __name__ == "__main__":
    main()
