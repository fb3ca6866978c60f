"""Everything that a comparison writes: records, tables, pictures and one self-contained HTML page."""

import base64
import csv
import html
import io
import json
from collections.abc import Iterator, Sequence
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
    found |= elsewhere(results)
    found["Compatibility"] = matrix_table(results)
    return {title: lines for title, lines in found.items() if lines}


def elsewhere(results: Results) -> dict[str, list[Line]]:
    """Title → table of what was asked off the training grid and off the training law, where the plan asks for it."""
    found = {}
    if results.transfer:
        found["Resolution transfer"] = elsewhere_table(results.transfer, results, ratio=False)
    if results.shifts:
        found["Out of distribution (ratio to in-distribution)"] = elsewhere_table(results.shifts, results, ratio=True)
    return found


def write(results: Results, test: Dataset, out: Path) -> list[Path]:
    """Write results.jsonl, table.md, table.csv, table.tex, report.html, the PNGs, where a solver recorded it on its way
    anytime.csv, and of trajectories error_over_time.csv into `out`."""
    tables = sections(results)
    records = "".join(json.dumps(record, allow_nan=False, default=str) + "\n" for record in finite_records(results))
    images = pictures(draw(results, test, out))
    write_atomically(out / "results.jsonl", records)
    write_atomically(out / "table.csv", csv_text(list(results.records())))
    write_atomically(out / "table.md", document(results.title, summary(results), tables, results.provenance))
    write_atomically(out / "table.tex", latex(tables["Accuracy"]) + "\n" + latex(tables["Cost"]))
    write_atomically(out / "report.html", page(results.title, summary(results), tables, images, results.provenance))
    names = ["results.jsonl", "table.md", "table.csv", "table.tex", "report.html"]
    if any(row.anytime for row in results.rows):
        write_atomically(out / "anytime.csv", anytime_csv([results]))
        names.append("anytime.csv")
    if any(row.over_time for row in results.rows):
        write_atomically(out / "error_over_time.csv", over_time_csv(results))
        names.append("error_over_time.csv")
    return [out / name for name in names] + list(images.values())


def anytime_csv(found: Sequence[Results]) -> str:
    """Error against seconds while solving: problem, solver, setting, seed, seconds, rel_l2 of the first test case."""
    lines = [
        {
            "problem": r.problem,
            "solver": row.solver,
            "setting": row.setting,
            "seed": row.seed,
            "seconds": s,
            "rel_l2": e,
        }
        for r in found
        for row in r.rows
        for s, e in row.anytime
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=("problem", "solver", "setting", "seed", "seconds", "rel_l2"))
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def over_time_csv(results: Results) -> str:
    """Relative L² error of every frame: mean and 10 and 90 % quantiles over cases."""
    names = ("problem", "protocol", "solver", "setting", "seed", "split", "time", "rel_l2", "low", "high")
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    for row in [*results.rows, *results.transfer, *results.shifts]:
        for point in row.over_time:
            writer.writerow([results.problem, row.protocol, row.solver, row.setting, row.seed, row.split, *point])
    return buffer.getvalue()


def finite_records(results: Results) -> Iterator[dict[str, Any]]:
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
    lines.append(machine(results.provenance))
    if any(row.kind == "learned" for row in results.rows):
        lines.append(
            "Break-even: (data generation + fit) / (seconds of the fastest classical setting with at most the same "
            "error − seconds of the solver), one case at a time."
        )
    return lines


def machine(facts: dict[str, Any]) -> str:
    """Where the times were taken and what they mean."""
    return (
        f"One machine for all rows: {facts['device']}, {facts['threads']} thread(s), {facts['precision']} data, "
        f"load average {facts['load_average']}. Times are medians of interleaved repeats; “noisy” marks quartiles "
        "more than 20 % of the median apart, “once” a solve so long that it was not repeated."
    )


def document(title: str, intro: list[str], tables: dict[str, list[Line]], provenance: dict[str, Any]) -> str:
    """The same as `page` in Markdown, without pictures."""
    parts = [f"# {title}", *intro]
    for heading, lines in tables.items():
        parts += [f"## {heading}", markdown(lines)]
    parts += ["## Provenance", "```json\n" + json.dumps(provenance, indent=1) + "\n```"]
    return "\n\n".join(parts) + "\n"


def page(
    title: str,
    intro: list[str],
    tables: dict[str, list[Line]],
    images: dict[str, Path],
    provenance: dict[str, Any],
    extra: str = "",
) -> str:
    """One self-contained HTML page: sentences, tables, pictures after the second table; `extra` is HTML."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<p class=small>{html.escape(line)}</p>" for line in intro]
    figures = [
        f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,"
        f"{base64.b64encode(path.read_bytes()).decode()}'><figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, path in images.items()
    ]
    for i, (heading, lines) in enumerate(tables.items()):
        body += [f"<h2>{html.escape(heading)}</h2>", _html_table(lines)]
        if i == min(1, len(tables) - 1):
            body += ["<h2>Pictures</h2>", *figures]
    body += [extra, "<h2>Provenance</h2>", f"<pre>{html.escape(json.dumps(provenance, indent=1))}</pre>"]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{html.escape(title)}</title>"
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
