"""The paths of every rule below results/<scale>/, with their wildcards."""

from __future__ import annotations

PLACE = "{dataset}/{model}/{forget}/{unlearner}"
# By rule its outputs below results/<scale>/; the record stands beside the first.
OUTPUTS: dict[str, dict[str, str]] = {
    "data": {"images": "data/{dataset}.safetensors"},
    "request": {"request": "requests/{dataset}/{request}/{block}.safetensors"},
    "choose": {"request": "requests/{dataset}/{model}/{chain}/{request}/{block}.safetensors"},
    "pretrained": {"weights": "pretrained/{model}.safetensors"},
    "train": {
        "model": "base/{dataset}/{model}/{base}/{block}.safetensors",
        "kept": "base/{dataset}/{model}/{base}/{block}.kept.safetensors",
    },
    "tune": {"tuned": f"tuned/{PLACE}.json"},
    "unlearn": {
        "model": f"unlearned/{PLACE}/{{block}}.safetensors",
        "kept": f"unlearned/{PLACE}/{{block}}.kept.safetensors",
    },
    "attack": {"attacked": f"attacked/{PLACE}/{{attack}}/{{block}}.safetensors"},
    "probe": {"probed": f"probed/{PLACE}/{{attack}}/{{block}}.safetensors"},
    "prepare": {"prepared": "defended/{dataset}/{forget}/{defense}/{block}.safetensors"},
    "predict": {"outputs": f"outputs/{PLACE}/{{block}}.safetensors"},
    "measure": {"rows": f"rows/{PLACE}.jsonl"},
    "table": {kind: f"papers/{{paper}}/{{table}}.{kind}" for kind in ("csv", "md", "tex", "html")},
    "figure": {kind: f"papers/{{paper}}/{{figure}}.{kind}" for kind in ("csv", "svg", "pdf")},
    "page": {"page": "papers/{paper}/index.html", "summary": "papers/{paper}/summary.json"},
    "front": {"front": "index.html"},
}


def outputs_of(results: str, stage: str) -> dict[str, str]:
    """Return a rule's outputs with their wildcards; the record is one of them."""
    found = {name: f"{results}/{pattern}" for name, pattern in OUTPUTS[stage].items()}
    return found | {"record": record_of(next(iter(found.values())))}


def record_of(path: str) -> str:
    """Return the path of the record, beside a job's first output."""
    return f"{path.rpartition('.')[0]}.record.json"


def log_of(scale: str, stage: str) -> str:
    """Return the path of a rule's log with its wildcards."""
    first = next(iter(OUTPUTS[stage].values()))
    return f"logs/{scale}/{stage}/{first.rpartition('.')[0].partition('/')[2] or 'all'}.log"


def below(stage: str, name: str, **names: str) -> str:
    """Return the path of one output of a rule, below results/<scale>/."""
    return OUTPUTS[stage][name].format(**names)
