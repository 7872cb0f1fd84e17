"""C names of the kernels: each is defined in one header, whatever headers a model takes together."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import get_args

import pytest

from edgeq.emit import c
from edgeq.emit.c import KERNELS, kernel_files
from edgeq.emit.c_pack import CHANNEL_VECTORS, stored_bits
from edgeq.target import Instructions

DEFINITIONS = (
    re.compile(r"^#define (\w+)", re.M),
    re.compile(r"^\} (\w+);", re.M),
    re.compile(r"^typedef [^{;]* (\w+);", re.M),
    re.compile(r"^(?:EDGEQ_\w+ )+(?:[\w*]+ )+\*?(\w+)\(", re.M),
)
"""Macros, structures, other types and functions."""


def headers_of(instructions: Instructions) -> dict[str, str]:
    """The text of every header that a model for this set of kernels may hold."""
    named = {
        h for source in Path(c.__file__).parent.glob("c*.py") for h in re.findall(r"edgeq_\w+\.h", source.read_text())
    }
    without = {f"edgeq_dot_w{bits}.h" for bits in (2, 4) if stored_bits(bits, 9, instructions) != bits}
    without |= {"edgeq_dot.h"}  # what blocks are made of, where they are not vectors
    without |= {"edgeq_depthwise.h" if instructions in CHANNEL_VECTORS else "edgeq_channelwise.h"}
    without |= set() if instructions == "portable" else {"edgeq_long.h"}  # of 16-bit codes
    without |= {"edgeq_dot_t4.h", "edgeq_unpack_t4.h", "edgeq_levels.h"}  # stand in for w4, unpack and long
    texts = kernel_files(sorted(named - without), instructions)
    texts.pop("edgeq_plain_lanes.h", None)  # stands in for edgeq_lanes.h
    return {name: text.decode() for name, text in texts.items()}


@pytest.mark.parametrize("instructions", get_args(Instructions))
def test_every_name_is_defined_in_one_header(instructions: Instructions) -> None:
    places = defaultdict[str, set[str]](set)
    for name, text in headers_of(instructions).items():
        for pattern in DEFINITIONS:
            for defined in pattern.findall(text):
                places[defined].add(name)
    twice = {defined: sorted(names) for defined, names in places.items() if len(names) > 1}
    assert len(places) > 150 and {"edgeq_conv", "edgeq_channel", "EDGEQ_BLOCK", "edgeq_conv_layer"} <= places.keys()
    assert not twice


def test_every_name_says_whose_it_is() -> None:
    for path in KERNELS.rglob("*.h"):
        for pattern in DEFINITIONS:
            assert all(name.lower().startswith("edgeq_") for name in pattern.findall(path.read_text())), path
