"""Attacks: images crafted against each unlearned model, and what attacks on labels extract from a server.

in: base/…, unlearned/…, data/{dataset}, requests/…
out: attacked/{dataset}/{model}/{forget}/{unlearner}/{attack}/{block}.safetensors
     probed/{dataset}/{model}/{forget}/{unlearner}/{attack}/{block}.safetensors, of an attack on labels
"""


rule attack:
    input:
        unpack(READS["attack"]),
    output:
        **OUT["attack"],
    log:
        LOGS["attack"],
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["attack"],
    script:
        "../scripts/attack.py"


rule probe:
    input:
        unpack(READS["probe"]),
    output:
        **OUT["probe"],
    log:
        LOGS["probe"],
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["probe"],
    script:
        "../scripts/probe.py"
