"""Rule so_far: tables and pages from the rows that exist now, and "37 of 40 cells" of each table and figure.

A cell counts where all of its rows are there, those of diverged runs included. Cells that this scale cannot have (no
data, no method yet) are not counted.
"""

import sys

from palimpsest.pipeline.cells import Plan
from palimpsest.pipeline.job import job

with job(globals().get("snakemake")) as run:
    from palimpsest.report import compare, formats, front, page, tables

    plan, said, summaries = Plan(run.config), [], []
    for paper, about in plan.papers.items():
        folder = run.results / "so_far" / "papers" / paper
        found = page.contents(plan, paper, run.results)
        run.write_text(str(folder / "index.html"), page.render(found))
        summaries.append(page.summary(found))
        for name in about["tables"]:
            text = formats.markdown(tables.of(plan, paper, name, run.results)[0])
            run.write_text(str(folder / f"{name}.md"), text)
        items = {name: cells for (of, name), cells in plan.items.items() if of == paper}
        counts = {name: compare.how_many(cells, run.results) for name, cells in items.items()}
        said += [f"{paper}: {about['title']}"]
        said += [f"  {name:<22} {there:>4} of {all_of_it:>4} cells" for name, (there, all_of_it) in counts.items()]
        there, all_of_it = map(sum, zip(*counts.values(), strict=True))
        said += [f"  {'all':<22} {there:>4} of {all_of_it:>4} cells; {folder}/index.html"]
    run.write_text(str(run.results / "so_far" / "index.html"), front.render(summaries))
    sys.stdout.write("\n".join(said) + "\n")
