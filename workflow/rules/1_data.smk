"""Data and requests: each data set as one file, and what shall be forgotten of it.

in: the data root (files that lie there are used; else they are fetched); a model, for a request chosen with one at hand;
    a file that somebody brings, for a request that it lists
out: data/{dataset}.safetensors
     requests/{dataset}/{request}/{block}.safetensors, or …/{dataset}/{model}/{chain}/{request}/… with a model at hand
"""


rule data:
    input:
        unpack(READS["data"]),
    output:
        **OUT["data"],
    log:
        LOGS["data"],
    conda:
        "../../environment.yml"
    resources:
        **LIMITS,
    params:
        **PARAMS["data"],
    script:
        "../scripts/data.py"


rule request:
    input:
        unpack(READS["request"]),
    output:
        **OUT["request"],
    log:
        LOGS["request"],
    priority: 20  # before any training, since a request may be malformed
    localrule: True
    conda:
        "../../environment.yml"
    params:
        **PARAMS["request"],
    script:
        "../scripts/request.py"


rule choose:
    input:
        unpack(READS["choose"]),
    output:
        **OUT["choose"],
    log:
        LOGS["choose"],
    priority: 10
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["choose"],
    script:
        "../scripts/choose.py"
