"""Evaluation: every metric of a model, clean and under each attack and behind each defense that some table asks for.

in: base/… (the original) or unlearned/…, attacked/…, defended/…, data/{dataset}, forget/…
out: rows/{dataset}/{model}/{forget}/{unlearner}.jsonl, one JSON object a measurement
"""


rule evaluate:
    input:
        images="<results>/data/{dataset}.safetensors",
        # The base models stand in the place of the unlearner `original`.
        models=lambda wildcards: collect(
            (
                "<results>/base/{dataset}/{model}/seed{seed}.safetensors"
                if wildcards.unlearner == cells.ORIGINAL
                else "<results>/unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.safetensors"
            ),
            seed=PLAN.blocks_of(wildcards.forget),
            **wildcards,
        ),
        before=lambda wildcards: collect(
            "<results>/{base}/seed{seed}.safetensors",
            base=cells.base_of(config, wildcards.dataset, wildcards.model, wildcards.unlearner),
            seed=PLAN.blocks_of(wildcards.forget) if PLAN.needs_before(**wildcards) else [],
        ),
        attacked=lambda wildcards: collect(
            "<results>/attacked/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors",
            attack=PLAN.attacks_of(**wildcards),
            seed=SEEDS,
            **wildcards,
        ),
        probed=lambda wildcards: collect(
            "<results>/probed/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors",
            attack=PLAN.label_attacks_of(**wildcards),
            seed=PLAN.blocks_of(wildcards.forget),
            **wildcards,
        ),
        # Servers whose forgotten classes the attacker knows, having retrained them himself.
        shadows=lambda wildcards: collect(
            "<results>/probed/{dataset}/{model}/{forget}/{shadow}/{attack}/seed{seed}.safetensors",
            attack=[name for name in PLAN.label_attacks_of(**wildcards) if cells.needs_shadows(config, name)],
            shadow="retrain",
            seed=PLAN.blocks_of(wildcards.forget),
            **wildcards,
        ),
        prepared=lambda wildcards: collect(
            "<results>/defended/{dataset}/{forget}/{defense}/seed{seed}.safetensors",
            defense=[name for name in PLAN.defenses_of(**wildcards) if cells.prepares(config, name)],
            seed=SEEDS,
            **wildcards,
        ),
        forget=lambda wildcards: collect(
            "<results>/forget/{dataset}/{forget}/seed{seed}.json",
            seed=PLAN.blocks_of(wildcards.forget),
            **wildcards,
        ),
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
        mem_mb=MEMORY,
        runtime=RUNTIME,
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
        judges=lambda wildcards: {
            name: (
                configuration.method_of(config, "attacks", name),
                cells.judge_keywords_of(config, name),
                cells.code_of(config, "attacks", name),
            )
            for name in PLAN.label_attacks_of(**wildcards)
        },
        members=lambda wildcards: PLAN.asks_members(**wildcards),
        blocks=lambda wildcards: PLAN.blocks_of(wildcards.forget),
        code=method.code("evaluate"),
    script:
        "../scripts/evaluate.py"
