"""Evaluation: every metric of a model, clean and under each attack and behind each defense that some table asks for.

in: base/… (the original) or unlearned/…, attacked/…, defended/…, data/{dataset}, forget/…
out: rows/{dataset}/{model}/{forget}/{unlearner}.jsonl, one JSON object a measurement
"""


rule evaluate:
    input:
        images="<results>/data/{dataset}.safetensors",
        # The base models stand in the place of the unlearner `original`.
        models=branch(
            lambda wildcards: wildcards.unlearner == cells.ORIGINAL,
            then=collect("<results>/base/{{dataset}}/{{model}}/seed{seed}.safetensors", seed=SEEDS),
            otherwise=collect(
                "<results>/unlearned/{{dataset}}/{{model}}/{{forget}}/{{unlearner}}/seed{seed}.safetensors", seed=SEEDS
            ),
        ),
        attacked=lambda wildcards: collect(
            "<results>/attacked/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors",
            attack=PLAN.attacks_of(**wildcards),
            seed=SEEDS,
            **wildcards,
        ),
        prepared=lambda wildcards: collect(
            "<results>/defended/{dataset}/{forget}/{defense}/seed{seed}.safetensors",
            defense=[name for name in PLAN.defenses_of(**wildcards) if cells.prepares(config, name)],
            seed=SEEDS,
            **wildcards,
        ),
        forget=collect("<results>/forget/{{dataset}}/{{forget}}/seed{seed}.json", seed=SEEDS),
    output:
        rows="<results>/rows/{dataset}/{model}/{forget}/{unlearner}.jsonl",
        record="<results>/rows/{dataset}/{model}/{forget}/{unlearner}.record.json",
    log:
        "<logs>/evaluate/{dataset}/{model}/{forget}/{unlearner}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=config["mem_mb"],
        runtime=config["runtime"],
    params:
        attacks=lambda wildcards: PLAN.attacks_of(**wildcards),
        defenses=lambda wildcards: {
            name: (
                configuration.method_of(config, "defenses", name),
                configuration.keywords_of(config, "defenses", name),
                cells.code_of(config, "defenses", name),
            )
            for name in PLAN.defenses_of(**wildcards)
        },
        code=method.code("evaluate"),
    script:
        "../scripts/evaluate.py"
