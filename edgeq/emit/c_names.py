"""Names of models as C identifiers."""

from __future__ import annotations

import keyword
import re

_C_WORDS = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
    ]
)


def identifier(text: str) -> str:
    """`text` as a C identifier in lower case.

    >>> identifier("YOLO11n.640"), identifier("3d")
    ('yolo11n_640', 'm_3d')
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "model"
    return f"m_{name}" if name[0].isdigit() or name in _C_WORDS or keyword.iskeyword(name) else name
