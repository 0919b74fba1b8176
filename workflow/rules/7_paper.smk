"""Papers: tables, ours beside published, and a page for each paper.

in: rows/…, config/papers/{paper}/
out: papers/{paper}/{table}.csv, .md, .tex, .html, papers/{paper}/index.html
"""


rule page:
    input:
        rows=lambda wildcards: collect("<results>/{rows}", rows=PLAN.rows(wildcards.paper)),
    output:
        page="<results>/papers/{paper}/index.html",
    log:
        "<logs>/page/{paper}.log",
    conda:
        "../../environment.yml"
    script:
        "../scripts/page.py"
