"""Base models: the models before unlearning, and the published weights with which the training of some begins.

in: data/{dataset}; requests/… for a method whose training must know them in advance; a file of weights in the data
     root, or of an installed package
out: pretrained/{model}.safetensors
     base/{dataset}/{model}/{base}/{block}.safetensors, `plain` or trained in an unlearner's own way; beside it
     {block}.kept.safetensors, what that training leaves for unlearning
"""


rule pretrained:
    output:
        **OUT["pretrained"],
    log:
        LOGS["pretrained"],
    conda:
        "../../environment.yml"
    resources:
        **LIMITS,
    params:
        **PARAMS["pretrained"],
    script:
        "../scripts/pretrained.py"


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
