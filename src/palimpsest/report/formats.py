"""An arranged table as text: Markdown for a terminal, LaTeX for a paper, HTML for a browser.

Our numbers have one decimal fewer than the paper prints, since the spread over repetitions leaves the last one without
meaning; the CSV has all decimals. Every verdict is a sign (`compare.Verdict`), in HTML with a colour as well.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import jinja2

from palimpsest.pipeline.configuration import ROOT
from palimpsest.pipeline.values import Status, named
from palimpsest.report.compare import JUDGED, Compared, Verdict
from palimpsest.report.tables import Column, Line, Table

SPREAD = re.compile(r"\$\\pm\$[\d.]+")  # in TeX, a smaller one
WIDTH = 110  # of prose in Markdown; tables stay within 120 columns
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"$\sim$", "^": r"\textasciicircum{}", "→": r"$\rightarrow$", "±": r"$\pm$", "≠": r"$\neq$",
    "ε": r"$\varepsilon$", "σ": r"$\sigma$", "×": r"$\times$", "–": "--", "∞": r"$\infty$", "·": r"$\cdot$",
    "≈": r"$\approx$", "≤": r"$\leq$", "≥": r"$\geq$", "↔": r"$\leftrightarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "“": "``", "”": "''", "’": "'", "é": r"\'e",
}  # fmt: skip


def ours(one: Compared, column: Column) -> tuple[str, str]:
    """Return mean and spread of a cell as text; empty where there is none."""
    # A fraction in a column of percentages has as many digits that mean something.
    places = max(column.places - 1, 0) + (2 if one.unit == "fraction" and column.places < 3 else 0)
    mean = "" if one.mean is None else f"{one.mean:.{places}f}"
    sd = "" if one.sd is None else f"{one.sd:.{places}f}"
    # 0.993 ± .002: a fraction's spread needs no leading zero, and seven columns fit into a terminal.
    return mean, sd.removeprefix("0") if column.places > 2 else sd


def printed(one: Compared, column: Column) -> str:
    """Return what the paper prints in this cell, with half our interval where it was judged, or why nothing stands."""
    if one.cell.published is not None:
        half = one.half if one.verdict in JUDGED and not one.successes else None
        within = "" if half is None else f"{half:.{max(column.places - 1, 0)}f}"
        within = within.removeprefix("0") if column.places > 2 else within  # as our spread
        return f"{one.cell.published:.{column.places}f}{within and f' ±{within}'}"
    if one.cell.status is Status.UNREADABLE:
        return "unreadable"
    return one.verdict.sign if one.verdict is Verdict.NOT_APPLICABLE else ""


def bracketed(one: Compared, table: Table) -> str:
    """Return `(n)` where n differs from the caption's, and of the highest or lowest of several its name."""
    return (f"({one.n})" if one.n and one.n != table.n else "") + (f" {one.winner}" if one.winner else "")


def spread(table: Table) -> str:
    """Return the sentence that says what stands in a cell."""
    if table.n == 0:
        return "Nothing was run yet."
    said = " Where the number of repetitions is another, it stands in brackets."
    other = said if any(one.n not in (0, table.n) for one in table.cells) else ""
    what = "one repetition" if table.n == 1 else f"the mean ± sample standard deviation over n = {table.n} repetitions"
    judged = ", with half the width of our interval" if any(one.verdict in JUDGED for one in table.cells) else ""
    return f"Our number is {what}; the printed number stands below it{judged}.{other}"


def below(line: Line, table: Table) -> list[str]:
    """Return what the paper prints in each column of a line."""
    return [printed(one, column) if one else "" for one, column in zip(line.cells, table.columns, strict=True)]


def notes(table: Table) -> list[str]:
    """Return the footnotes: what each column means for each data set, and why missing numbers were not run."""
    why = dict.fromkeys(one.why for one in table.cells if one.verdict in (Verdict.NOT_RUN, Verdict.DIVERGED))
    missing = [f"Some cells were not run or diverged: {'; '.join(why)}."] if why else []
    variants = dict.fromkeys(block.variants for block in table.blocks if block.variants)
    return [*variants, *table.footnotes, *missing]


def markdown(table: Table) -> str:
    """Return Markdown that also reads well in a terminal of 120 columns."""
    heads = [" ".join(filter(None, (column.name, column.short))) for column in table.columns]
    parts = [f"# {table.title}", _wrap(table.caption)]
    if table.banner:
        parts.insert(1, "\n>\n".join(_wrap(text, "> ") for text in (f"**{table.banner[0]}**", *table.banner[1:])))
    for block in table.blocks:
        rows = [["", *heads]]
        for line in block.lines:
            rows.append([line.label, *_cells(line, table)])
            if any(theirs := below(line, table)):
                rows.append(["  paper", *(text.replace("unreadable", "?") for text in theirs)])
        parts += [f"## {block.title}", _wrap(block.about + "."), *([grid(rows)] if block.lines else [])]
        if block.controls:
            used = [i for i in range(len(heads)) if any(line.cells[i] for line in block.controls)]
            rows = [["control", "", *(heads[i] for i in used)]]
            for line in block.controls:
                cells = _cells(line, table)
                rows.append([line.control, line.label, *(cells[i] for i in used)])
            parts += ["The controls are ours and not the paper's:", grid(rows, left=2)]
    said = [spread(table), *notes(table)]
    if table.signs:
        said.insert(1, "Signs: " + ", ".join(f"`{verdict.sign}` {verdict.meaning}" for verdict in table.signs) + ".")
    if any("unreadable" in below(line, table) for block in table.blocks for line in block.lines):
        said.append("A `?` in the paper's line means that the number is unreadable in the paper's text.")
    return "\n\n".join([*parts, *map(_wrap, said)]) + "\n"


def texts(line: Line, table: Table, small: str, blank: str = "") -> list[str]:
    """Return the cells of a line as text. small: how a spread is written. blank: what stands where there is no sign."""
    found = []
    for one, column in zip(line.cells, table.columns, strict=True):
        if one is None or one.mean is None:
            found.append(one.short if one else "")
        else:
            mean, sd = ours(one, column)
            found.append(f"{mean}{small.format(sd) if sd else ''}{bracketed(one, table)} {one.verdict.sign or blank}")
    return found


def _cells(line: Line, table: Table) -> list[str]:
    if line.reason:
        return [one.short if one and place == line.first else "" for place, one in enumerate(line.cells)]
    return texts(line, table, "±{}", " ")


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def grid(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows, the head first, as a Markdown table of even columns: `left` of them aligned left, others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    rule = [("-" * width if i < left else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    lines = [[pad[i](text, widths[i]) for i, text in enumerate(row)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def escape(text: str) -> str:
    """Return text with what LaTeX treats specially escaped."""
    return re.sub("|".join(map(re.escape, TEX)), lambda found: TEX[found[0]], text)


def latex(table: Table) -> str:
    """Return a `table*` for each block, since they do not fit on one page; needs booktabs and a page 6 inches wide."""
    signs = "; ".join(f"{verdict.sign} {verdict.meaning}" for verdict in table.signs)
    about = [table.title.split(". ", 1)[-1] + ".", table.caption, spread(table), *([signs + "."] if signs else [])]
    # TeX is full of braces and per cent signs, so its template marks what is not TeX in another way.
    made = environment().overlay(
        variable_start_string="<<", variable_end_string=">>", block_start_string="<%", block_end_string="%>",
        autoescape=False,
    )  # fmt: skip
    return made.get_template("table.tex.j2").render(table=table, about=about)


def tex_cells(line: Line, table: Table, label: str) -> str:
    """Return the cells of a line as TeX; a long label takes the empty columns before the first number too."""
    head = rf"\multicolumn{{{line.first + 1}}}{{l}}{{{label}}}" if line.first else label
    cells = (escape(text).rstrip() for text in texts(line, table, "±{}")[line.first :])
    return " & ".join([head, *(SPREAD.sub(r"{\\tiny\g<0>}", text) for text in cells)])


def environment() -> jinja2.Environment:
    """Return the templates of workflow/report/, with the functions that they call."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "workflow" / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        ours=ours, printed=printed, bracketed=bracketed, spread=spread, tooltip=tooltip, notes=notes, below=below,
        named=named, tex_cells=tex_cells, zip=zip,
    )  # fmt: skip
    made.filters.update(tex=escape, any=any)
    return made


def tooltip(one: Compared) -> str:
    """Return what a reader sees over a number before following its link."""
    sd = "" if one.sd is None else f", sd {one.sd:.4g}"
    runs = f"{one.n} repetition{'s' if one.n != 1 else ''}"
    images = f" on {one.images} images" if one.images else ""
    theirs = one.cell.published
    printed = "" if theirs is None else f"; printed {theirs:g}, difference {one.difference:+.4g}"
    mean = f"mean {one.mean:.6g}{sd}, {runs}{images}"
    return f"{one.verdict}{printed}; {mean}; seeds {', '.join(one.seeds)}; open the record"


def html(table: Table) -> str:
    """Return a page with this table alone; the page of the paper has the table too."""
    return environment().get_template("table.html.j2").render(table=table)
