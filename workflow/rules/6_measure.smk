"""Measurement: each model's outputs, computed once on the card; then every metric that a cell needs, on the CPU.

in: base/… or unlearned/…, attacked/…, defended/…, probed/…, data/{dataset}, requests/…
out: outputs/{dataset}/{model}/{forget}/{unlearner}/{block}.safetensors
     rows/{dataset}/{model}/{forget}/{unlearner}.jsonl, one JSON object a measurement
"""


rule predict:
    input:
        unpack(READS["predict"]),
    output:
        **OUT["predict"],
    log:
        LOGS["predict"],
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["predict"],
    script:
        "../scripts/predict.py"


rule measure:
    input:
        unpack(READS["measure"]),
    output:
        **OUT["measure"],
    log:
        LOGS["measure"],
    conda:
        "../../environment.yml"
    resources:
        **LIMITS,
    params:
        **PARAMS["measure"],
    script:
        "../scripts/measure.py"
