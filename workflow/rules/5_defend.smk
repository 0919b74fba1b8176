"""Defenses: the training of a defense on the retained data, before it can purify images.

in: data/{dataset}, requests/…
out: defended/{dataset}/{forget}/{defense}/{block}.safetensors
Defenses that need no training have no job here; `predict` applies all of them.
"""


rule prepare:
    input:
        unpack(READS["prepare"]),
    output:
        **OUT["prepare"],
    log:
        LOGS["prepare"],
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["prepare"],
    script:
        "../scripts/prepare.py"
