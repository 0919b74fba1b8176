"""Defenses: what a defense must learn from the retained data before evaluation can stand behind it.

in: data/{dataset}, forget/…
out: defended/{dataset}/{forget}/{defense}/seed{seed}.safetensors
Defenses that need no training have no job here; evaluation applies all of them.
"""


rule prepare:
    input:
        images="<results>/data/{dataset}.safetensors",
        forget="<results>/forget/{dataset}/{forget}/seed{seed}.json",
    output:
        prepared="<results>/defended/{dataset}/{forget}/{defense}/seed{seed}.safetensors",
        record="<results>/defended/{dataset}/{forget}/{defense}/seed{seed}.record.json",
    log:
        "<logs>/prepare/{dataset}/{forget}/{defense}/seed{seed}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "defenses", wildcards.defense),
        keywords=lambda wildcards: cells.prepare_keywords_of(config, wildcards.defense),
        code=lambda wildcards: cells.code_of(config, "defenses", wildcards.defense),
    script:
        "../scripts/prepare.py"
