"""Data: each data set as one file of uint8 tensors, and the forget sets drawn from it.

in: the data root (files that lie there are used; else they are fetched)
out: data/{dataset}.safetensors, forget/{dataset}/{forget}/seed{seed}.json
"""


rule data:
    output:
        images="<results>/data/{dataset}.safetensors",
        record="<results>/data/{dataset}.record.json",
    log:
        "<logs>/data/{dataset}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "datasets", wildcards.dataset),
        keywords=lambda wildcards: configuration.keywords_of(config, "datasets", wildcards.dataset),
        subset=lambda wildcards: config["datasets"][wildcards.dataset].get("subset", {}),
        root=config["data_root"],
        code=lambda wildcards: cells.code_of(config, "datasets", wildcards.dataset),
    script:
        "../scripts/data.py"


rule forget:
    input:
        images="<results>/data/{dataset}.safetensors",
    output:
        forget="<results>/forget/{dataset}/{forget}/seed{seed}.json",
        record="<results>/forget/{dataset}/{forget}/seed{seed}.record.json",
    log:
        "<logs>/forget/{dataset}/{forget}/seed{seed}.log",
    priority: 10  # a second of work that others wait for
    localrule: True
    conda:
        "../../environment.yml"
    params:
        rule=lambda wildcards: {
            key: value for key, value in config["forget_sets"][wildcards.forget].items() if key != "trials"
        },
        code=method.code("forget"),
    script:
        "../scripts/forget.py"
