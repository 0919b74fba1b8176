"""Papers: tables and figures, ours beside published, and a page for each paper.

in: rows/…, config/papers/{paper}/
out: papers/{paper}/{table}.csv, .md, .tex, .html; {figure}.svg, .pdf, .csv; papers/{paper}/index.html
     so_far/{paper}/: the same from the rows that exist now
targets: so_far; the paper's name, and {paper}_{table} or {paper}_{figure} for one of them

`params.cells` names all that the configuration says of a table: a changed stand-in or budget makes it again.
"""

from palimpsest.seeds import stable_seed

TABLES = sorted({table for _, table in PLAN.tables})
FIGURES = sorted({figure for _, figure in PLAN.figures})


rule table:
    input:
        rows=lambda wildcards: collect("<results>/{rows}", rows=PLAN.rows(wildcards.paper, wildcards.table)),
        cells="config/papers/{paper}/{table}.csv",
        about="config/papers/{paper}/paper.yaml",
        templates=collect("workflow/report/{name}", name=["parts.html.j2", "table.html.j2", "style.css"]),
    output:
        csv=report(
            "<results>/papers/{paper}/{table}.csv",
            category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
            subcategory="Tables",
            labels={"item": "{table}", "as": "every cell (CSV)"},
            caption="../report/cells.rst",
        ),
        markdown="<results>/papers/{paper}/{table}.md",
        latex=report(
            "<results>/papers/{paper}/{table}.tex",
            category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
            subcategory="Tables",
            labels={"item": "{table}", "as": "LaTeX"},
            caption="../report/table.rst",
        ),
        html=report(
            "<results>/papers/{paper}/{table}.html",
            category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
            subcategory="Tables",
            labels={"item": "{table}", "as": "the table"},
            caption="../report/table.rst",
        ),
        record="<results>/papers/{paper}/{table}.record.json",
    log:
        "<logs>/table/{paper}/{table}.log",
    wildcard_constraints:
        table="|".join(TABLES),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cells=lambda wildcards: stable_seed(repr(PLAN.tables[wildcards.paper, wildcards.table])),
        code=method.code("report/tables", "report/formats"),
    script:
        "../scripts/table.py"


rule figure:
    input:
        rows=lambda wildcards: collect("<results>/{rows}", rows=PLAN.rows(wildcards.paper, wildcards.figure)),
        pixels=lambda wildcards: collect("<results>/{file}", file=PLAN.pixels(wildcards.paper, wildcards.figure)),
        cells="config/papers/{paper}/{figure}.csv",
        about="config/papers/{paper}/paper.yaml",
    output:
        csv="<results>/papers/{paper}/{figure}.csv",
        svg=report(
            "<results>/papers/{paper}/{figure}.svg",
            category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
            subcategory="Figures",
            labels={"item": "{figure}", "as": "SVG"},
            caption="../report/figure.rst",
        ),
        pdf="<results>/papers/{paper}/{figure}.pdf",
        record="<results>/papers/{paper}/{figure}.record.json",
    log:
        "<logs>/figure/{paper}/{figure}.log",
    wildcard_constraints:
        figure="|".join(FIGURES) or "none",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cells=lambda wildcards: stable_seed(repr(PLAN.figures[wildcards.paper, wildcards.figure])),
        code=method.code("report/figures"),
    script:
        "../scripts/figure.py"


rule page:
    input:
        rows=lambda wildcards: collect("<results>/{rows}", rows=PLAN.rows(wildcards.paper)),
        tables=lambda wildcards: collect(
            "<results>/papers/{paper}/{table}.csv",
            paper=wildcards.paper,
            table=PLAN.papers[wildcards.paper].get("tables", {}),
        ),
        figures=lambda wildcards: collect(
            "<results>/papers/{paper}/{figure}.svg",
            paper=wildcards.paper,
            figure=PLAN.papers[wildcards.paper].get("figures", {}),
        ),
        about="config/papers/{paper}/paper.yaml",
        templates=collect("workflow/report/{name}", name=["parts.html.j2", "page.html.j2", "style.css"]),
    output:
        page=report(
            "<results>/papers/{paper}/index.html",
            category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
            labels={"item": "{paper}", "as": "the page"},
            caption="../report/page.rst",
        ),
        record="<results>/papers/{paper}/index.record.json",
    log:
        "<logs>/page/{paper}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        cells=lambda wildcards: stable_seed(repr(PLAN.items)),
        code=method.code("report/page"),
    script:
        "../scripts/page.py"


rule so_far:
    log:
        "<logs>/so_far.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        results=f"results/{config['scale']}",
    script:
        "../scripts/so_far.py"


for paper, item in PLAN.items:

    rule:
        name:
            f"{paper}_{item}"
        input:
            f"<results>/papers/{paper}/{item}.csv",
        localrule: True


for paper in PLAN.papers:

    rule:
        name:
            paper
        input:
            f"<results>/papers/{paper}/index.html",
        localrule: True
