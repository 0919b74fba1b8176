"""Base models: what stands before unlearning.

in: data/{dataset}; forget/… for a method that must know its requests
out: base/{dataset}/{model}/seed{seed}.safetensors, one repetition or several
     base/{dataset}/{model}/{unlearner}/seed{seed}.safetensors for a method with a base training of its own, and beside
     it seed{seed}.kept.safetensors, what that training left for unlearning
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
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "models", wildcards.model),
        keywords=lambda wildcards: configuration.keywords_of(config, "models", wildcards.model),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        code=lambda wildcards: method.code(
            "train", f"models/{configuration.method_of(config, 'models', wildcards.model)}"
        ),
    script:
        "../scripts/train.py"


rule train_own:
    input:
        images="<results>/data/{dataset}.safetensors",
        requests=lambda wildcards: collect(
            "<results>/forget/{dataset}/{forget}/seed{seed}.json",
            forget=PLAN.requests_of(wildcards.dataset, wildcards.model, wildcards.unlearner, wildcards.seed),
            dataset=wildcards.dataset,
            seed=wildcards.seed,
        ),
    output:
        model="<results>/base/{dataset}/{model}/{unlearner}/seed{seed}.safetensors",
        kept="<results>/base/{dataset}/{model}/{unlearner}/seed{seed}.kept.safetensors",
        record="<results>/base/{dataset}/{model}/{unlearner}/seed{seed}.record.json",
    log:
        "<logs>/train/{dataset}/{model}/{unlearner}/seed{seed}.log",
    priority: 10
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "models", wildcards.model),
        keywords=lambda wildcards: configuration.keywords_of(config, "models", wildcards.model),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        unlearner=lambda wildcards: configuration.method_of(config, "unlearners", wildcards.unlearner),
        settings=lambda wildcards: cells.base_keywords_of(config, wildcards.unlearner),
        code=lambda wildcards: method.code(
            f"unlearners/{configuration.method_of(config, 'unlearners', wildcards.unlearner)}",
            f"models/{configuration.method_of(config, 'models', wildcards.model)}",
        ),
    script:
        "../scripts/train_own.py"
