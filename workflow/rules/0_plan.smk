"""The plan: what a run would cost, before it costs anything.

in: Snakemake's own graph of `plan.target`, and the records of all jobs that ran, at any scale
out: plan.md (also printed), plan.json, plan.csv (a line a job), plan.svg
targets: plan; `--config plan='{target: uma}'` plans one paper
"""


rule plan:
    log:
        "<logs>/plan.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        results=f"results/{config['scale']}",  # no output: no plan is up to date, what is done changes while jobs run
        max_checksum_file_size=lambda wildcards: workflow.dag_settings.max_checksum_file_size,
    script:
        "../scripts/plan.py"
