"""The plan: what a run would cost, before it costs anything.

in: Snakemake's own graph of `plan.target`, and the records of all jobs that ran, at any scale
out: plan.md (also printed), plan.csv (a line a job)
targets: plan; `--config plan='{target: uma}'` plans one paper
"""


rule plan:
    log:
        f"logs/{config['scale']}/plan.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:  # no output: no plan is up to date, what is done changes while jobs run
        asks=lambda wildcards: {"max_checksum_file_size": workflow.dag_settings.max_checksum_file_size},
    script:
        "../scripts/plan.py"
