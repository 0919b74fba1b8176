"""Base models: the models before unlearning.

in: data/{dataset}; requests/… for a method whose training must know them in advance
out: base/{dataset}/{model}/{base}/{block}.safetensors, `plain` or trained in an unlearner's own way; beside it
     {block}.kept.safetensors, what that training leaves for unlearning
"""


rule train:
    input:
        unpack(READS["train"]),
    output:
        **OUT["train"],
    log:
        LOGS["train"],
    priority: 10
    conda:
        "../../environment.yml"
    threads: config["threads"]
    resources:
        **ON_CARD,
    params:
        **PARAMS["train"],
    script:
        "../scripts/train.py"
