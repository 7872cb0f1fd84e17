"""The report as one HTML page that needs nothing else: no scripts, no fonts, no files, no network.

It is made from the JSON document of a report (so it can be made again from `report.json`) and pictures. What was not
measured has no section.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.flow.charts import bar_chart, quantity
from edgeq.flow.page_cells import robustness_sections
from edgeq.flow.page_formats_cost import format_cost_sections
from edgeq.flow.page_fronts import front_sections
from edgeq.flow.page_layers import agreement_sections, board_sections, layer_sections
from edgeq.flow.page_table import Document, Section, cell, table
from edgeq.report import base_place

_LARGEST_TEXT = 400_000
_COST_UNITS = ("B", "ms")


def render(document: Document, pictures: Sequence[Document] = ()) -> bytes:
    """The page of a report's document."""
    title = f"edgeq {document['command']} {_subject(document)}".strip()
    return render_sections(title, _subtitle(document), _sections(document, pictures))


def render_sections(title: str, subtitle: str, parts: Sequence[Section]) -> bytes:
    """A page of sections, whose missing fields are empty."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    blank: Section = {
        "note": "", "key": [], "charts": [], "tables": [], "pictures": [], "items": [], "texts": []
    }  # fmt: skip
    sections = [blank | {"anchor": f"s{index}"} | section for index, section in enumerate(parts)]
    template = environment.get_template("page.html.j2")
    return template.render(title=title, subtitle=subtitle, sections=sections).encode()


def _subject(document: Document) -> str:
    model = document["manifest"].get("model", "")
    name = model.get("name", "") if isinstance(model, Mapping) else Path(str(model)).stem
    return " ".join(part for part in (name, document["target"] or "") if part)


def _subtitle(document: Document) -> str:
    verdict = {0: "every promise was kept", 4: "a budget was missed", 5: "the artifact differs from the reference"}
    return f"{verdict.get(document['exit'], 'failed')}; took {document['seconds']:.0f} s"


def _sections(document: Document, pictures: Sequence[Document]) -> list[Section]:
    return [
        *_headline(document),
        *(robustness_sections(document["cells"], document["manifest"].get("preset")) if document["cells"] else []),
        *front_sections(document.get("points", ()), document["manifest"]),
        *format_cost_sections(document["manifest"].get("front")),
        *_pictures(pictures),
        *_costs(document["rows"]),
        *layer_sections(document),
        *board_sections(document["layers"]),
        *agreement_sections(document["agreement"]),
        *_words(document),
    ]


def _headline(document: Document) -> list[Section]:
    rows = document["rows"]
    if document["cells"] or not rows:
        return []
    places = list(dict.fromkeys(row["where"] for row in rows))
    found = {(row["metric"], row["where"]): row for row in rows}
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        base = found.get((metric, base_place(document["command"], places)))
        line: list[Any] = [metric]
        for place in places:
            row = found.get((metric, place))
            line.append("" if row is None else _figure(row, base))
        lines.append([*line, max(row["n"] for row in rows if row["metric"] == metric)])
    return [{"title": "Figures", "tables": [table(["", *places, "n"], lines)]}]


def _figure(row: Document, base: Document | None) -> dict[str, str]:
    if row["value"] is None:
        return cell("")
    text = quantity(row["value"], row["unit"] if row["unit"] in _COST_UNITS else "")
    if base is None or base is row or not base["value"]:
        return cell(text)
    change = row["value"] - base["value"]
    return cell(
        text, small=f"{change:+.3g}" if row["unit"] not in _COST_UNITS else f"x {row['value'] / base['value']:.2f}"
    )


def _costs(rows: Sequence[Document]) -> list[Section]:
    charts = []
    for metric in dict.fromkeys(row["metric"] for row in rows if row["unit"] in _COST_UNITS):
        mine = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        if mine:
            bars = {row["where"]: float(row["value"]) for row in mine}
            charts.append(
                {"wide": False, "title": metric, "svg": bar_chart(bars, mine[0]["unit"], f"{metric} by place")}
            )
    return [{"title": "Size, time and memory", "charts": charts}] if charts else []


def _pictures(rows: Sequence[Document]) -> list[Section]:
    note = "One image; boxes with a score above 0.25. A pointer on a box shows its class and score."
    return [{"title": "What each runner sees", "note": note, "pictures": list(rows)}] if rows else []


def _words(document: Document) -> list[Section]:
    files = [f"{item['path']} ({item['bytes']:,} bytes)" for item in document["artifact"]]
    groups = {"Notes": document["notes"], "Files": files, "Next": document["next"]}
    sections: list[Section] = [{"title": title, "items": list(items)} for title, items in groups.items() if items]
    manifest = document["manifest"]
    recipe = {key: manifest[key] for key in ("model", "target", "options", "preprocess", "versions") if key in manifest}
    texts = [("Recipe", recipe or manifest), ("Manifest", manifest)] if manifest else []
    shown = [{"title": title, "body": _json(body), "open": False} for title, body in texts]
    return [*sections, {"title": "Recipe and manifest", "texts": shown}] if shown else sections


def _json(body: object) -> str:
    text = json.dumps(body, indent=1, ensure_ascii=False, default=str)
    return text if len(text) <= _LARGEST_TEXT else f"{text[:_LARGEST_TEXT]}\n… the whole of it is in manifest.json"
