"""Unlearning: each unlearner on each base model and forget set; tuning where its line in the configuration asks for it.

in: base/…, data/{dataset}, forget/…
out: unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.safetensors
     tuned/{dataset}/{model}/{forget}/{unlearner}.json, the values chosen and the whole search
"""


rule tune:
    input:
        images="<results>/data/{dataset}.safetensors",
        base=lambda wildcards: f"<results>/{cells.base_of(config, wildcards.dataset, wildcards.model, wildcards.unlearner)}/seed{HELD_OUT}.safetensors",
        kept=branch(
            lambda wildcards: cells.trains_base(config, wildcards.unlearner),
            then=f"<results>/base/{{dataset}}/{{model}}/{{unlearner}}/seed{HELD_OUT}.kept.safetensors",
        ),
        retrained=f"<results>/unlearned/{{dataset}}/{{model}}/{{forget}}/retrain/seed{HELD_OUT}.safetensors",
        forget=f"<results>/forget/{{dataset}}/{{forget}}/seed{HELD_OUT}.json",
    output:
        tuned="<results>/tuned/{dataset}/{model}/{forget}/{unlearner}.json",
        record="<results>/tuned/{dataset}/{model}/{forget}/{unlearner}.record.json",
    log:
        "<logs>/tune/{dataset}/{model}/{forget}/{unlearner}.log",
    priority: 8
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "unlearners", wildcards.unlearner),
        keywords=lambda wildcards: cells.fixed_of(config, wildcards.unlearner),
        grid=lambda wildcards: configuration.grid_of(config, wildcards.unlearner),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        repetition=HELD_OUT,
        code=lambda wildcards: (
            method.code("tune", "evaluate"),
            cells.code_of(config, "unlearners", wildcards.unlearner),
        ),
    script:
        "../scripts/tune.py"


rule unlearn:
    input:
        images="<results>/data/{dataset}.safetensors",
        base=lambda wildcards: f"<results>/{cells.base_of(config, wildcards.dataset, wildcards.model, wildcards.unlearner)}/seed{wildcards.seed}.safetensors",
        forget="<results>/forget/{dataset}/{forget}/seed{seed}.json",
        kept=branch(
            lambda wildcards: cells.trains_base(config, wildcards.unlearner),
            then="<results>/base/{dataset}/{model}/{unlearner}/seed{seed}.kept.safetensors",
        ),
        tuned=branch(
            lambda wildcards: bool(configuration.grid_of(config, wildcards.unlearner)),
            then="<results>/tuned/{dataset}/{model}/{forget}/{unlearner}.json",
        ),
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
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "unlearners", wildcards.unlearner),
        keywords=lambda wildcards: cells.fixed_of(config, wildcards.unlearner),
        recipe=lambda wildcards: cells.recipe_of(config, wildcards.dataset, wildcards.model),
        code=lambda wildcards: cells.code_of(config, "unlearners", wildcards.unlearner),
    script:
        "../scripts/unlearn.py"
