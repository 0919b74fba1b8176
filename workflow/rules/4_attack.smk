"""Attacks: images crafted against each unlearned model, all repetitions in one job; what a server says of its labels.

in: base/…, unlearned/…, data/{dataset}, forget/…
out: attacked/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors, one for each repetition
     probed/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors, of an attack on labels
"""


rule attack:
    input:
        images="<results>/data/{dataset}.safetensors",
        base=lambda wildcards: collect(
            "<results>/{base}/seed{seed}.safetensors",
            base=cells.base_of(config, wildcards.dataset, wildcards.model, wildcards.unlearner),
            seed=SEEDS,
        ),
        unlearned=collect(
            "<results>/unlearned/{{dataset}}/{{model}}/{{forget}}/{{unlearner}}/seed{seed}.safetensors", seed=SEEDS
        ),
        forget=collect("<results>/forget/{{dataset}}/{{forget}}/seed{seed}.json", seed=SEEDS),
    output:
        attacked=collect(
            "<results>/attacked/{{dataset}}/{{model}}/{{forget}}/{{unlearner}}/{{attack}}/seed{seed}.safetensors",
            seed=SEEDS,
        ),
        record="<results>/attacked/{dataset}/{model}/{forget}/{unlearner}/{attack}/attack.record.json",
    log:
        "<logs>/attack/{dataset}/{model}/{forget}/{unlearner}/{attack}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "attacks", wildcards.attack),
        keywords=lambda wildcards: configuration.keywords_of(config, "attacks", wildcards.attack),
        on=lambda wildcards: config["attacks"][wildcards.attack].get("images", "forget"),
        code=lambda wildcards: cells.code_of(config, "attacks", wildcards.attack),
    script:
        "../scripts/attack.py"


rule probe:
    input:
        images="<results>/data/{dataset}.safetensors",
        # The base models stand in the place of the unlearner `original`: servers that forgot nothing.
        server=branch(
            lambda wildcards: wildcards.unlearner == cells.ORIGINAL,
            then="<results>/base/{dataset}/{model}/seed{seed}.safetensors",
            otherwise="<results>/unlearned/{dataset}/{model}/{forget}/{unlearner}/seed{seed}.safetensors",
        ),
    output:
        probed="<results>/probed/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.safetensors",
        record="<results>/probed/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.record.json",
    log:
        "<logs>/probe/{dataset}/{model}/{forget}/{unlearner}/{attack}/seed{seed}.log",
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        gpu=config["gpu"],
        mem_mb=MEMORY,
        runtime=RUNTIME,
    params:
        method=lambda wildcards: configuration.method_of(config, "attacks", wildcards.attack),
        keywords=lambda wildcards: cells.probe_keywords_of(config, wildcards.attack, wildcards.dataset),
        code=lambda wildcards: cells.code_of(config, "attacks", wildcards.attack),
    script:
        "../scripts/probe.py"
