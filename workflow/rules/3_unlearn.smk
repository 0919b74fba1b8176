"""Unlearning: one step on a base model or on the step before; tuning where an unlearner's line has `tune`.

in: base/… or unlearned/…, data/{dataset}, requests/…
out: unlearned/{dataset}/{model}/{forget}/{unlearner}/{block}.safetensors, and {block}.kept.safetensors for a next step
     tuned/{dataset}/{model}/{forget}/{unlearner}.json, the values chosen and the whole search
"""


rule tune:
    input:
        unpack(READS["tune"]),
    output:
        **OUT["tune"],
    log:
        LOGS["tune"],
    priority: 8
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["tune"],
    script:
        "../scripts/tune.py"


rule unlearn:
    input:
        unpack(READS["unlearn"]),
    output:
        **OUT["unlearn"],
    log:
        LOGS["unlearn"],
    priority: 5
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["unlearn"],
    script:
        "../scripts/unlearn.py"
