"""Papers: tables and figures, ours beside published, a page for each paper and one before them all.

in: rows/…, config/papers/{paper}/
out: papers/{paper}/{table}.csv, .md, .tex, .html; {figure}.svg, .pdf, .csv; papers/{paper}/index.html, summary.json
     index.html: the front page, with the claims of all papers
     so_far/{paper}/: the same from the rows that exist now
targets: so_far; the paper's name, and {paper}_{table} or {paper}_{figure} for one of them
"""

# What Snakemake's own report shows: rule, output, what it is of and what it is, the group.
for stage, output, item, label, group in (
    ("table", "csv", "{table}", "every cell (CSV)", {"subcategory": "Tables"}),
    ("table", "tex", "{table}", "LaTeX", {"subcategory": "Tables"}),
    ("table", "html", "{table}", "the table", {"subcategory": "Tables"}),
    ("figure", "svg", "{figure}", "SVG", {"subcategory": "Figures"}),
    ("page", "page", "{paper}", "the page", {}),
):
    OUT[stage][output] = report(
        OUT[stage][output],
        category=lambda wildcards: PLAN.papers[wildcards.paper]["title"],
        labels={"item": item, "as": label},
        caption="../report/item.rst",
        **group,
    )


rule table:
    input:
        unpack(READS["table"]),
    output:
        **OUT["table"],
    log:
        LOGS["table"],
    localrule: True
    conda:
        "../../environment.yml"
    params:
        **PARAMS["table"],
    script:
        "../scripts/table.py"


rule figure:
    input:
        unpack(READS["figure"]),
    output:
        **OUT["figure"],
    log:
        LOGS["figure"],
    localrule: True
    conda:
        "../../environment.yml"
    params:
        **PARAMS["figure"],
    script:
        "../scripts/figure.py"


rule page:
    input:
        unpack(READS["page"]),
    output:
        **OUT["page"],
    log:
        LOGS["page"],
    localrule: True
    conda:
        "../../environment.yml"
    params:
        **PARAMS["page"],
    script:
        "../scripts/page.py"


rule front:
    input:
        unpack(READS["front"]),
    output:
        **OUT["front"],
    log:
        LOGS["front"],
    localrule: True
    conda:
        "../../environment.yml"
    params:
        **PARAMS["front"],
    script:
        "../scripts/front.py"


rule so_far:
    log:
        f"logs/{config['scale']}/so_far.log",
    localrule: True
    conda:
        "../../environment.yml"
    script:
        "../scripts/so_far.py"


targets = {f"{paper}_{item}": f"{AT.results}/papers/{paper}/{item}.csv" for paper, item in PLAN.items}
targets |= {paper: AT("page", paper=paper)["page"].path for paper in PLAN.papers}
for target, made in targets.items():

    rule:
        name:
            target
        input:
            made,
        localrule: True
