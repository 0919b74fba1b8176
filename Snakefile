"""Palimpsest: four papers on attacks against machine unlearning, every table from one command (README.md).

The files and settings of each rule come from pipeline/address.py; `params.key` is the hash of everything upstream.
"""

import os
import sys

# The package needs no installation; scripts find it by PYTHONPATH. Nothing imported here may import torch.
sys.path.insert(0, os.path.join(workflow.basedir, "src"))

from palimpsest.pipeline import address, cells, configuration, limits, warm


configfile: "config/config.yaml"
configfile: configuration.scale_file(config["scale"])


config = configuration.resolve(config)
PLAN = cells.Plan(config)
PLAN.check()
AT = address.Addresses(PLAN)
OUT, LOGS, READS, PARAMS = AT.for_rules()
LIMITS = {"mem_mb": limits.memory(config["mem_mb"]), "runtime": limits.runtime(config["runtime"])}
ON_CARD = {"gpu": config["gpu"], **LIMITS}  # the resources of a job that computes with networks
# A job sent elsewhere runs cold: it must not look for the server of the process that sent it.
os.environ |= warm.environment(config["warm_start"] and not workflow.remote_exec)


report: "workflow/report/workflow.rst"


wildcard_constraints:
    **dict.fromkeys(("dataset", "model", "base", "request", "attack", "defense"), "[a-z0-9_]+"),
    **dict.fromkeys(("forget", "unlearner"), "[a-z0-9_-]+"),  # the requests and the unlearners of a chain's steps
    chain="[a-z0-9_.-]+",
    block="[0-9]+(-[0-9]+)?",  # one repetition, or several in one file
    paper="|".join(PLAN.papers),
    table="|".join({table for _, table in PLAN.tables}) or "none",
    figure="|".join({figure for _, figure in PLAN.figures}) or "none",


onstart:
    # With a limit on its jobs a second, Snakemake starts a timer at each look for ready jobs, and each timer looks again:
    # one more for every job that ends, until that takes a core. So its default of 100 is no limit; one of yours stays.
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
    if {job.rule.name for job in workflow.dag.needrun_jobs()} - {"plan", "so_far"}:  # these two make no results
        configuration.write(config, f"{AT.results}/config.yaml")


rule all:
    input:
        AT("front")["front"].path,


include: "workflow/rules/0_plan.smk"
include: "workflow/rules/1_data.smk"
include: "workflow/rules/2_train.smk"
include: "workflow/rules/3_unlearn.smk"
include: "workflow/rules/4_attack.smk"
include: "workflow/rules/5_defend.smk"
include: "workflow/rules/6_measure.smk"
include: "workflow/rules/7_paper.smk"
