"""Tables of the report's page, as the template reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Section = dict[str, Any]


def cell(text: str, *, small: str = "", tone: str = "", svg: str = "") -> dict[str, str]:
    """Text, a smaller remark, a tone (good or bad), and a drawing instead of the text."""
    return {"text": text, "small": small, "tone": tone, "svg": svg}


def table(head: Sequence[str], lines: Sequence[Sequence[Any]], title: str = "", *, folded: bool = False) -> Section:
    """Lines of cells or of what becomes their text; the first of a line is its name."""
    cells = [[item if isinstance(item, dict) else cell(str(item)) for item in line] for line in lines]
    return {"title": title, "head": list(head), "lines": cells, "folded": folded}
