"""Base models: what stands before unlearning.

in: data/{dataset}
out: base/{dataset}/{model}/seed{seed}.safetensors
"""


rule train:
    input:
        images="<results>/data/{dataset}.safetensors",
    output:
        model="<results>/base/{dataset}/{model}/seed{seed}.safetensors",
        record="<results>/base/{dataset}/{model}/seed{seed}.record.json",
    log:
        "<logs>/train/{dataset}/{model}/seed{seed}.log",
    priority: 10  # everything waits for these
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=config["mem_mb"],
        runtime=config["runtime"],
    params:
        method=lambda wildcards: configuration.method_of(config, "models", wildcards.model),
        keywords=lambda wildcards: configuration.keywords_of(config, "models", wildcards.model),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        code=lambda wildcards: method.code(
            "train", f"models/{configuration.method_of(config, 'models', wildcards.model)}"
        ),
    script:
        "../scripts/train.py"
