"""The plan: what a run would cost, before it is started.

in: Snakemake's own graph of `plan.target`, and the records of all jobs that ran, at any scale
out: plan.md (also printed), plan.csv (a line a job)
targets: plan; `--config plan='{target: NAME}'` plans one paper or one table of it, {paper}_{table}
"""


rule plan:
    log:
        f"logs/{config['scale']}/plan.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:  # there is no output, because a plan is never up to date: what is done changes while jobs run
        asks=lambda wildcards: {"max_checksum_file_size": workflow.dag_settings.max_checksum_file_size},
    script:
        "../scripts/plan.py"
