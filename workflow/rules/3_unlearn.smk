"""Unlearning: each unlearner on each base model and forget set.

in: base/…, data/{dataset}, forget/…
out: unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.safetensors
"""


rule unlearn:
    input:
        images="<results>/data/{dataset}.safetensors",
        base="<results>/base/{dataset}/{model}/seed{seed}.safetensors",
        forget="<results>/forget/{dataset}/{forget}/seed{seed}.json",
    output:
        model="<results>/unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.safetensors",
        record="<results>/unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.record.json",
    log:
        "<logs>/unlearn/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.log",
    priority: 5
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=config["mem_mb"],
        runtime=config["runtime"],
    params:
        method=lambda wildcards: configuration.method_of(config, "unlearners", wildcards.unlearner),
        keywords=lambda wildcards: configuration.keywords_of(config, "unlearners", wildcards.unlearner),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        code=lambda wildcards: cells.code_of(config, "unlearners", wildcards.unlearner),
    script:
        "../scripts/unlearn.py"
