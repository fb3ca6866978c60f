"""Everything that a comparison writes: records, tables, pictures and one self-contained HTML page."""

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sciops.compare.plots import draw, pictures
from sciops.compare.results import Results, write_atomically
from sciops.compare.table import (
    Line,
    csv_text,
    elsewhere_table,
    ladder_table,
    latex,
    main_tables,
    markdown,
    matrix_table,
)
from sciops.core.dataset import Dataset

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1.2rem;color:#1b1f24}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d8dee4}
.scroll{overflow-x:auto} table{border-collapse:collapse;font-size:13px;white-space:nowrap}
th,td{padding:.32rem .6rem;border-bottom:1px solid #e6e9ed;text-align:left;font-variant-numeric:tabular-nums}
th{background:#f4f6f8;position:sticky;top:0} tr:hover td{background:#fafbfc}
td.long{white-space:normal;min-width:16rem} img{max-width:100%;height:auto}
figcaption,.small{color:#57606a;font-size:13px} pre{background:#f4f6f8;padding:.8rem;overflow-x:auto;font-size:12px}
@media(prefers-color-scheme:dark){body{background:#15181c;color:#dfe4ea}th,pre{background:#22272e}
th,td{border-color:#30363d}tr:hover td{background:#1c2128}img{background:#fff;border-radius:4px}}
"""


def sections(results: Results) -> dict[str, list[Line]]:
    """Title → table, in reading order."""
    found = dict(main_tables(results))
    found["All settings (work–precision)"] = ladder_table(results)
    if results.transfer:
        found["Resolution transfer"] = elsewhere_table(results.transfer, results, ratio=False)
    if results.shifts:
        found["Out of distribution (ratio to in-distribution)"] = elsewhere_table(results.shifts, results, ratio=True)
    found["Compatibility"] = matrix_table(results)
    return {title: lines for title, lines in found.items() if lines}


def write(results: Results, test: Dataset, out: Path) -> list[Path]:
    """Write results.jsonl, table.md, table.csv, table.tex, report.html and the PNGs into `out`."""
    tables = sections(results)
    records = "".join(json.dumps(record, allow_nan=False, default=str) + "\n" for record in _finite(results))
    images = pictures(draw(results, test, out))
    write_atomically(out / "results.jsonl", records)
    write_atomically(out / "table.csv", csv_text(results))
    write_atomically(out / "table.md", _markdown(results, tables))
    write_atomically(out / "table.tex", latex(tables["Accuracy"]) + "\n" + latex(tables["Cost"]))
    write_atomically(out / "report.html", _html(results, tables, images))
    names = ("results.jsonl", "table.md", "table.csv", "table.tex", "report.html")
    return [out / name for name in names] + list(images.values())


def _finite(results: Results) -> Iterator[dict[str, Any]]:
    """Records without NaN or infinity, which JSON does not know: they become null with a note."""
    for record in results.records():
        for key in ("value", "low", "high"):
            value = record[key]
            if isinstance(value, float) and not (abs(value) < float("inf")):
                record[key] = None
                record["note"] = record["note"] or "not finite"
        yield record


def summary(results: Results) -> list[str]:
    """The facts above the tables, as sentences."""
    facts = results.provenance
    lines = [results.equation]
    if results.floor is not None:
        lines.append(f"Mean estimated error of the labels (the floor): {results.floor:.1e} relative L².")
    if results.truth_residual is not None:
        lines.append(
            f"Discrete residual of the stored truth: {results.truth_residual:.2g}. Below it the residual column says "
            "how well a solver fits the difference scheme, not how close it is to the solution."
        )
    if results.generation_seconds is not None:
        lines.append(f"Generating the training data took {results.generation_seconds:.1f} s.")
    lines.append(
        f"One machine for all rows: {facts['device']}, {facts['threads']} thread(s), {facts['precision']} data, "
        f"load average {facts['load_average']}. Times are medians of interleaved repeats; “noisy” marks quartiles "
        "more than 20 % of the median apart."
    )
    lines.append(
        "Break-even: (data generation + fit) / (seconds of the fastest classical setting with at most the same error "
        "− seconds of the solver), one case at a time."
    )
    return lines


def _markdown(results: Results, tables: dict[str, list[Line]]) -> str:
    parts = [f"# {results.title}", *summary(results)]
    for title, lines in tables.items():
        parts += [f"## {title}", markdown(lines)]
    parts += ["## Provenance", "```json\n" + json.dumps(results.provenance, indent=1) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _html(results: Results, tables: dict[str, list[Line]], images: dict[str, Path]) -> str:
    body = [f"<h1>{html.escape(results.title)}</h1>"]
    body += [f"<p class=small>{html.escape(line)}</p>" for line in summary(results)]
    figures = [
        f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,"
        f"{base64.b64encode(path.read_bytes()).decode()}'><figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, path in images.items()
    ]
    for i, (title, lines) in enumerate(tables.items()):
        body += [f"<h2>{html.escape(title)}</h2>", _html_table(lines)]
        if i == 1:
            body += ["<h2>Pictures</h2>", *figures]
    body += ["<h2>Provenance</h2>", f"<pre>{html.escape(json.dumps(results.provenance, indent=1))}</pre>"]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{html.escape(results.title)}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _html_table(lines: list[Line]) -> str:
    names = list(lines[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for line in lines:
        cells = []
        for name in names:
            text = line.get(name, "")
            long = " class=long" if len(text) > 48 else ""
            cells.append(f"<td{long}>{html.escape(text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
