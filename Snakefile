"""Palimpsest: four papers on attacks against machine unlearning, every table from one command.

snakemake --cores all                            the demo, on embedded data
snakemake --cores all --config scale=laptop      real images on a CPU
snakemake --cores all uma                        one paper; uma_table1 is one table
"""

import os
import sys

# The package needs no installation; scripts find it by PYTHONPATH. Nothing imported here may import torch.
sys.path.insert(0, os.path.join(workflow.basedir, "src"))

from palimpsest.pipeline import cells, configuration, limits, method, warm


configfile: "config/config.yaml"
configfile: configuration.scale_file(config["scale"])


config = configuration.resolve(config)
PLAN = cells.Plan(config)
SEEDS = range(config["repetitions"])  # of attacks on images; a forget set may have others, PLAN.blocks_of
HELD_OUT = config["tuning_seed"]  # the repetition that no table uses
MEMORY = limits.memory(config["mem_mb"])
RUNTIME = limits.runtime(config["runtime"])

# Jobs of this run may start warm (pipeline/warm.py); the server ends with this process. A job sent elsewhere runs cold:
# it must not look for the server of the process that sent it.
starts_warm = config["warm_start"] and not workflow.remote_exec
paths = [warm.EARLY] * starts_warm + [sys.path[0], os.getenv("PYTHONPATH")]
os.environ |= {
    warm.SWITCH: str(os.getpid()) if starts_warm else "",
    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
}


report: "workflow/report/workflow.rst"


pathvars:
    results=f"results/{config['scale']}",
    logs=f"logs/{config['scale']}",


wildcard_constraints:
    dataset="[a-z0-9_]+",
    model="[a-z0-9_]+",
    forget="[a-z0-9_]+",
    unlearner="[a-z0-9_]+",
    attack="[a-z0-9_]+",
    defense="[a-z0-9_]+",
    seed="[0-9]+(-[0-9]+)?",  # one repetition, or several in one file
    paper="|".join(PLAN.papers),
    table="[a-z0-9]+",
    figure="[a-z0-9]+",


onstart:
    if {job.rule.name for job in workflow.dag.needrun_jobs()} - {"plan", "so_far"}:  # these two make no results
        configuration.write(config, f"results/{config['scale']}/config.yaml")


rule all:
    default_target: True
    input:
        collect("<results>/papers/{paper}/index.html", paper=PLAN.papers),


include: "workflow/rules/0_plan.smk"
include: "workflow/rules/1_data.smk"
include: "workflow/rules/2_train.smk"
include: "workflow/rules/3_unlearn.smk"
include: "workflow/rules/4_attack.smk"
include: "workflow/rules/5_defend.smk"
include: "workflow/rules/6_evaluate.smk"
include: "workflow/rules/7_paper.smk"
