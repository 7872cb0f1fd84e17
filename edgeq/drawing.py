"""Plain pictures as SVG text: rectangles, lines and words, placed by whoever draws them. The same input, the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

FONT = "font-family='sans-serif'"


def picture(width: float, height: float, parts: Iterable[str]) -> str:
    """An SVG file of these `parts` on white."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' height="{height:g}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def box(x: float, y: float, width: float, height: float, fill: str, title: str = "") -> str:
    """A rectangle; `title` appears under the pointer."""
    shown = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill={quoteattr(fill)}'
        f' fill-opacity="0.75" stroke="#333" stroke-width="0.5">{shown}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    """A straight line."""
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke={quoteattr(color)}{dashes}/>'


def words(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", turned: bool = False) -> str:
    """Text whose baseline begins (or ends, or is centered) at a point; `turned` reads upward."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" {FONT} text-anchor={quoteattr(anchor)}{turn}>'
        f"{escape(text)}</text>"
    )


def bars(title: str, rows: Iterable[tuple[str, float, str, str]], note: str) -> str:
    """Horizontal bars: of each row its label, its length, what to write after it, and its color."""
    found = list(rows)
    longest = max((length for _, length, _, _ in found), default=0) or 1
    left, top, step, room = 260, 48, 18, 420
    parts = [words(16, 22, title, size=14), words(16, 38, note, size=10)]
    for k, (label, length, after, color) in enumerate(found):
        y = top + k * step
        parts.append(words(left - 6, y + 12, label if len(label) <= 42 else f"…{label[-41:]}", anchor="end", size=10))
        parts.append(box(left, y + 2, room * length / longest, step - 5, color, f"{label}: {after}"))
        parts.append(words(left + room * length / longest + 4, y + 12, after, size=10))
    return picture(left + room + 240, top + step * len(found) + 12, parts)
