"""Where every result lies, what it depends on, and a hash of all that: no path of a scale's results is spelt elsewhere.

An `Address` is one job. Its `key`, a parameter of its rule, is a hash of its settings, its code and the keys of what it
reads, up to the data. So a change anywhere gives every job downstream a reason of its own to run. It needs one,
because Snakemake removes the files of a failed job and does not miss an intermediate file of finished results.

A model is a base and a list of steps, named by a `Run`; the names of a second step stand behind those of the first, as
in `class_0-random_tenth` and `sisa-sisa`. So one rule, `unlearn`, makes every step from the run before it. A file holds
the repetitions that its `block` names ("0", or "0-4"), each under its number.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from palimpsest.pipeline import method
from palimpsest.pipeline.cells import ORIGINAL, Plan, Run
from palimpsest.pipeline.configuration import (
    ROOT,
    SECTIONS,
    ConfigError,
    files_of,
    grid_of,
    keywords_of,
    method_of,
    needs_of,
    read_by,
    recipe_of,
    surrogates,
    task_of,
)
from palimpsest.pipeline.paths import OUTPUTS, log_of, outputs_of
from palimpsest.pipeline.provenance import digest
from palimpsest.pipeline.values import SAME, STEP
from palimpsest.seeds import numbers, stable_seed

PLAIN = "plain"  # the base model that the one training loop makes, without an unlearner's own `train_base`
# What a seed is for. Rules of one role do the same thing, each to other models or with another method.
ROLES = {
    "request": "request",
    "choose": "request",
    "train": "training",
    "tune": "unlearning",
    "unlearn": "unlearning",
    "attack": "attack",
    "probe": "attack",
    "prepare": "defense",
    "measure": "measurement",
}
# By kind of a figure that shows images, the rules of which it reads an output, and which.
SHOWN = {
    "images": {"probe": "probed"},
    "pictures": {"attack": "attacked", "predict": "outputs"},
    "restored": {"predict": "outputs"},
    "replaced": {"request": "request", "predict": "outputs"},
}
LOOK = ("parts.html.j2", "table.html.j2", "table.tex.j2", "page.html.j2", "front.html.j2", "style.css", "looks.yaml")


@dataclass(frozen=True)
class File:
    """One output of a job; `name` is its name in `paths.OUTPUTS`."""

    of: Address
    name: str

    @property
    def path(self) -> str:
        """Its path, relative to the project's root."""
        return self.of.outputs[self.name]


Above = File | str  # a job's output, or the path of a file that belongs to the project


@dataclass(frozen=True)
class Address:
    """One job.

    stage: its rule. names: its wildcards, in the order in which its path has them. asks: the settings of its script, as
    plain values. above: what it reads, by name. code: the hash of the code that it executes.
    """

    results: str
    stage: str
    names: Mapping[str, str]
    asks: Mapping[str, Any]
    above: Mapping[str, Above | Sequence[Above]]
    code: str

    def __getitem__(self, name: str) -> File:
        return File(self, name)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Its output files by name; the record is one of them."""
        return {name: path.format(**self.names) for name, path in outputs_of(self.results, self.stage).items()}

    @cached_property
    def inputs(self) -> dict[str, str | list[str]]:
        """The files that it reads, by name."""
        return self._each_above(lambda found: found.path if isinstance(found, File) else found)

    @cached_property
    def key(self) -> str:
        """The hash of everything that its result depends on."""
        keys = self._each_above(lambda found: f"{found.of.key} {found.name}" if isinstance(found, File) else found)
        content = [self.stage, self.names, self.asks, self.code, keys]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=12).hexdigest()

    def seed(self, number: int) -> int:
        """The seed of one repetition."""
        return seed_of(self.stage, self.names, number)

    def _each_above(self, text: Callable[[Above], str]) -> dict[str, str | list[str]]:
        return {
            name: text(found) if isinstance(found, File | str) else [text(one) for one in found]
            for name, found in self.above.items()
        }


def seed_of(stage: str, names: Mapping[str, str], number: int) -> int:
    """The seed of one repetition, made from a role, the data and the repetition's number.

    What is compared with one another, such as two unlearners on one request or one attack on their models, then sees
    the same draws. A retrained model shares none with the base model, or with one that forgot something else.
    """
    forgotten = names.get("request", names.get("forget", ""))
    return stable_seed(ROLES[stage], names["dataset"], forgotten, number)


class Addresses:
    """Every job of one resolved configuration."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.config = plan, plan.config
        self.results = f"results/{self.config['scale']}"
        self._made: dict[Any, Address] = {}

    def __call__(self, stage: str, **names: str) -> Address:
        """Return the job of the rule `stage` with these wildcards."""
        known = (stage, *sorted(names.items()))
        if known not in self._made:
            asks, above, *modules = getattr(self, f"_{stage}")(**names)
            first = next(iter(OUTPUTS[stage].values()))
            ordered = dict(sorted(names.items(), key=lambda item: first.index(f"{{{item[0]}}}")))
            code = method.code(f"workflow/scripts/{stage}.py", *modules)
            self._made[known] = Address(self.results, stage, ordered, asks, above, code)
        return self._made[known]

    def for_rules(self) -> tuple[dict[str, Any], ...]:
        """Return by rule: outputs, log, inputs and params; the last two are functions of the wildcards."""

        def ask(stage: str, what: str) -> Callable[[Any], Any]:
            return lambda wildcards: getattr(self(stage, **dict(wildcards.items())), what)

        return (
            {stage: outputs_of(self.results, stage) for stage in OUTPUTS},
            {stage: log_of(self.config["scale"], stage) for stage in OUTPUTS},
            {stage: ask(stage, "inputs") for stage in OUTPUTS},
            {stage: {what: ask(stage, what) for what in ("asks", "key")} for stage in OUTPUTS},
        )

    # Runs

    def base(self, run: Run, block: str) -> Address:
        """The job that trained the base models from which the repetitions of a run begin."""
        return self._shared(run.dataset, run.model, self._trainer(run), self._block_of(self.bases(run, block), block))

    def bases(self, run: Run, block: str) -> list[int]:
        """Return the number of the base model from which each repetition of a block begins."""
        return [self.plan.base_of(run, number) for number in numbers(block)]

    def model(self, run: Run, block: str) -> Address:
        """Return the job that made the models of a run: its last step, or the base training."""
        if run.unlearner == ORIGINAL:
            return self.base(run, block)
        return self("unlearn", **run.names, block=self.plan.within(self.plan.repetitions(run), run.model, block))

    def requests(self, run: Run, block: str) -> list[File]:
        """Return the request files of a run, one for each step that has a request of its own."""
        found = []
        for length in range(1, len(run.steps) + 1):
            until = run.until(length)
            request = until.steps[-1][0]
            if request == SAME:
                continue
            within = self.plan.within(self.plan.asks(until), run.model, block)
            chain = until.before.chain if until.before else self._trainer(until)
            chosen = {"model": run.model, "chain": chain} if self._at_hand(request) else {}
            found.append(self._asked(run.dataset, request, within, **chosen))
        return found

    def _asked(self, dataset: str, request: str, block: str, **chosen: str) -> File:
        """Return the file of a request for the repetitions of a block; `chosen` where a model is at hand."""
        block = "0" if self.plan.once(request, block) else block
        names = {"dataset": dataset, "request": request, "block": block, **chosen}
        return self("choose" if chosen else "request", **names)["request"]

    @staticmethod
    def _block_of(bases: Sequence[int], block: str) -> str:
        """Return a block with these base models: that of their repetitions, or the one with which all begin."""
        return block if [*bases] == numbers(block) else str(bases[0])

    def _shared(self, dataset: str, model: str, base: str, block: str) -> Address:
        """The job that trained the base models of a block, which several runs may share."""
        within = self.plan.within(self._trained[dataset, model, base], model, block)
        return self("train", dataset=dataset, model=model, base=base, block=within)

    @cached_property
    def _trained(self) -> dict[tuple[str, str, str], int]:
        """How many base models all runs together need, by data set, network and trainer; runs share base models."""
        found: dict[tuple[str, str, str], int] = defaultdict(int)
        for run in self.plan.asked:
            others = [name for request, _ in run.steps for name in surrogates(self.plan.request(request))]
            plain = [(model, PLAIN) for model in (run.model, *others)]
            bases = {self.plan.base_of(run, number) for number in range(self.plan.repetitions(run))}
            count = len(bases - {self.config["tuning"]["first"]})
            for place in [(run.model, self._trainer(run)), *plain]:
                found[run.dataset, *place] = max(found[run.dataset, *place], count)
            if observer := self._observer(run):
                found[run.dataset, observer, PLAIN] = max(found[run.dataset, observer, PLAIN], 1)
        return found

    def _observer(self, run: Run) -> str | None:
        """Return the network that looks at the pictures which a run's models answer with, if there is one."""
        found: str | None = self.config["models"][run.model].get("observer")
        return found

    def _trainer(self, run: Run) -> str:
        """Return who trains a run's base model: the first step's unlearner if it has a `train_base`, else `plain`."""
        first = run.steps[0][1]
        own = first != ORIGINAL and method.has("unlearners", method_of(self.config, "unlearners", first), "train_base")
        return first if own else PLAIN

    def _shadow_request(self, attack: str) -> str:
        """Return the request that an attack's shadow servers were asked; empty where it has none."""
        attacks, file = self.config["attacks"], method_of(self.config, "attacks", attack)
        own = attacks[attack].get("shadows") or attacks.get(file, {}).get("shadows")
        return str(own) if own and "shadows" in method.needs("attacks", file) else ""

    def _at_hand(self, request: str) -> bool:
        """Whether a request is chosen with a model at hand."""
        return bool(needs_of(self.config, "requests", request))

    # For each rule: the settings of its script, what it reads, and the modules that it executes

    def _data(self, dataset: str) -> tuple[Any, ...]:
        entry = {key: self.config["datasets"][dataset].get(key, {}) for key in ("subset", "hold_back")}
        told = {**self._told("datasets", dataset), **entry, "root": self.config["data_root"]}
        return told, {}, self._module("datasets", dataset)

    def _request(self, dataset: str, request: str, block: str) -> tuple[Any, ...]:
        told = self._told("requests", request) | {"once": self.plan.once(request, block)}
        above = {"images": self._images(dataset), **self._files(request)}
        return told, above, *self._modules("requests", request)

    def _choose(self, dataset: str, model: str, chain: str, request: str, block: str) -> tuple[Any, ...]:
        entry = self.config["requests"][request]
        told, modules = self._told("requests", request), self._modules("requests", request)
        above: dict[str, Any] = {"images": self._images(dataset), **self._files(request)}
        run = Run.of_chain(dataset, model, chain)
        bases = self.bases(Run(dataset, model, request, ORIGINAL), block)
        told |= {"once": self.plan.once(request, block), "bases": bases, "first": run is None}
        made = self.model(run, block) if run else self._shared(dataset, model, chain, self._block_of(bases, block))
        above["model"] = made["model"]
        if "kept" in needs_of(self.config, "requests", request) or "against" in entry:
            above["kept"] = made["kept"]
        if "against" in entry:
            told["against"] = self._told("unlearners", entry["against"], "", dataset)
            told["recipe"] = recipe_of(self.config, dataset, model)
            modules.append(self._module("unlearners", entry["against"]))
            above |= self._begins(model)
        if "surrogate" in entry:
            of = self._block_of(bases, block)
            above["surrogate"] = [self._shared(dataset, name, PLAIN, of)["model"] for name in surrogates(entry)]
        return told, above, *modules

    def _pretrained(self, model: str) -> tuple[Any, ...]:
        told = {"pretrained": self.config["models"][model]["pretrained"], "root": self.config["data_root"]}
        return {**self._told("models", model), **told}, {}, "pretrained", self._module("models", model)

    def _begins(self, model: str) -> dict[str, File]:
        """Return the published weights with which the training of a network begins, if it has any, by their name."""
        has_any = "pretrained" in self.config["models"][model]
        return {"pretrained": self("pretrained", model=model)["weights"]} if has_any else {}

    def _train(self, dataset: str, model: str, base: str, block: str) -> tuple[Any, ...]:
        told: dict[str, Any] = {
            "network": self._told("models", model),
            "task": task_of(self.config, model),
            "recipe": recipe_of(self.config, dataset, model),
            "trainer": {},
        }
        above: dict[str, Any] = {"images": self._images(dataset), **self._begins(model)}
        modules = ["train", self._module("models", model), f"tasks.{told['task']}"]
        if base != PLAIN:
            told["trainer"] = self._told("unlearners", base, "train_base", dataset)
            modules.append(self._module("unlearners", base))
            needs = method.needs("unlearners", told["trainer"]["method"])
            if "requests" in needs and (known := self._known_before(dataset, model, base, block)):
                above["requests"] = known
        return told, above, *modules

    def _known_before(self, dataset: str, model: str, base: str, block: str) -> list[File]:
        """Return the requests of all runs on a base whose training must know them in advance."""
        place = (dataset, model, base)
        runs = [run for run in self.plan.asked if (run.dataset, run.model, self._trainer(run)) == place]
        known = sorted({request for run in runs for request, _ in run.steps} - {SAME})
        late = [*filter(self._at_hand, known)]
        file = method.path("unlearners", method_of(self.config, "unlearners", base))
        if late and not method.literal(file, "REPLAYS"):
            raise ConfigError(
                f"{base} must know its requests before training; {late[0]} is chosen with the trained model."
            )
        return [self._asked(dataset, request, block) for request in known if request not in late]

    def _tune(self, **names: str) -> tuple[Any, ...]:
        run, block = Run(**names), self.plan.held_out
        told, above, *modules = self._step(run, block)
        reference = run.with_last(self.config["reference"])
        above["retrained"] = self("unlearn", **reference.names, block=block)["model"]
        last = run.steps[-1][1]
        ((keyword, start),) = grid_of(self.config, last).items()
        admits = method.every_keyword("unlearners", method_of(self.config, "unlearners", last)).get(keyword, "")
        told |= {"tuned": keyword, "start": start, "admits": admits, "trials": self.config["tuning"]["trials"]}
        return told, above, "tune", *modules

    def _unlearn(self, dataset: str, model: str, forget: str, unlearner: str, block: str) -> tuple[Any, ...]:
        run = Run(dataset, model, forget, unlearner)
        told, above, *modules = self._step(run, block)
        last = run.steps[-1][1]
        if grid_of(self.config, last):
            above["tuned"] = self("tune", **self.plan.tuned_on(run).names)["tuned"]
        told["from_nearest"] = self.config["unlearners"][last].get("from_nearest", False)
        if told["from_nearest"]:  # every repetition starts from the same run of the step before
            if not run.before:
                raise ConfigError(f"unlearners.{last}.from_nearest needs a step before it; {forget} is the first.")
            if not all(self.plan.once(name, "0") for name, _ in run.steps if name != SAME):
                raise ConfigError(
                    f"unlearners.{last}.from_nearest: all repetitions of {forget} must forget the same samples: its "
                    "requests must say `once: true`."
                )
            told["blocks"] = self.plan.blocks(run.before)
            every = [self.model(run.before, one) for one in told["blocks"]]
            above |= {"before": [one["model"] for one in every], "kept": [one["kept"] for one in every]}
        return told, above, *modules

    def _step(self, run: Run, block: str) -> tuple[Any, ...]:
        """Return what an unlearning step needs, both for tuning it and for doing it."""
        request, unlearner = run.steps[-1]
        grid = grid_of(self.config, unlearner)
        before = self.model(run.before, block) if run.before else self.base(run, block)
        bases = self.bases(run, block)
        told = self._told("unlearners", unlearner, "unlearn", run.dataset)
        told["keywords"] = {key: value for key, value in told["keywords"].items() if key not in grid}
        told |= {
            "recipe": recipe_of(self.config, run.dataset, run.model),
            "task": task_of(self.config, run.model),
            "same": request == SAME,
            "served": self.plan.request(request).get("served", 0),
            "first": run.before is None,
            "bases": bases,
            "blocks": [block if run.before else self._block_of(bases, block)],
        }
        above: dict[str, Any] = {
            "images": self._images(run.dataset),
            "before": [before["model"]],
            "kept": [before["kept"]],
            "requests": self.requests(run, block),
            **self._begins(run.model),
        }
        if "original" in needs_of(self.config, "unlearners", unlearner):
            above["original"] = self.base(run, block)["model"]
        return told, above, *self._modules("unlearners", unlearner), f"tasks.{told['task']}"

    def _attack(self, attack: str, block: str, **names: str) -> tuple[Any, ...]:
        run = Run(**names)
        entry = self.config["attacks"][attack]
        aims = [self._aim(run, entry.get("towards", "original"), number) for number in numbers(block)]
        above = {
            "images": self._images(run.dataset),
            "original": [made["model"] for made, _ in aims],
            "model": self.model(run.with_last(entry["made_on"]) if "made_on" in entry else run, block)["model"],
            "requests": self.requests(run, block),
        }
        told = self._told("attacks", attack) | {"task": task_of(self.config, run.model)}
        told |= {"on": entry.get("images", "forget"), "equally_sure": entry.get("equally_sure")}
        told["at_most"] = self.config["budgets"].get("attacked")
        told["aims"] = [number for _, number in aims]
        return told, above, self._module("attacks", attack), f"tasks.{told['task']}"

    def _aim(self, run: Run, towards: str, number: int) -> tuple[Address, int]:
        """Return the job, and the repetition in it, of the model whose answers an attack on a repetition seeks."""
        if towards == "reference":  # it was made without what this very repetition forgot
            reference = run.with_last(self.config["reference"])
            if reference == run:
                raise ConfigError(f"{run.unlearner} would be attacked towards its own answers on {run.forget}.")
            return self.model(reference, str(number)), number
        base, first = self.plan.base_of(run, number), self.config["tuning"]["first"]
        if towards == "another":  # of the next repetition, where that begins from another base model
            following = self.plan.base_of(run, (number + 1) % self.plan.repetitions(run))
            base = next(other for other in (following, first, first + 1) if other != base)
        return self._shared(run.dataset, run.model, self._trainer(run), str(base)), base

    def _probe(self, attack: str, block: str, **names: str) -> tuple[Any, ...]:
        run = Run(**names)
        told = self._told("attacks", attack, "attack")
        told["keywords"] |= self.config["budgets"].get("probes", {}).get(f"{run.dataset}/{attack}", {})
        above: dict[str, Any] = {"images": self._images(run.dataset), "server": self.model(run, block)["model"]}
        if "forgotten" in method.needs("attacks", told["method"]):
            above["requests"] = self.requests(run, block)
            told["shadow"] = run.forget == self._shadow_request(attack)
        return told, above, self._module("attacks", attack), "requests.__init__"

    def _prepare(self, dataset: str, forget: str, defense: str, block: str) -> tuple[Any, ...]:
        asked = [request for request in forget.split(STEP) if request != SAME]
        if any(map(self._at_hand, asked)):
            raise ConfigError(
                f"defense {defense} is trained without the forget set, and {forget} differs from model to model."
            )
        told = self._told("defenses", defense, "prepare")
        requests = [self._asked(dataset, request, block) for request in asked]
        return told, {"images": self._images(dataset), "requests": requests}, self._module("defenses", defense)

    def _predict(self, block: str, **names: str) -> tuple[Any, ...]:
        run = Run(**names)
        attacks, defenses = self.plan.attacks_of(run), self.plan.defenses_of(run)
        trained = [
            name for name in defenses if method.has("defenses", method_of(self.config, "defenses", name), "prepare")
        ]
        told: dict[str, Any] = {
            "attacks": attacks,
            "defenses": {name: self._told("defenses", name, "purify") for name in defenses},
            "trained": trained,
            "task": task_of(self.config, run.model),
        }
        above: dict[str, Any] = {
            "images": self._images(run.dataset),
            "model": self.model(run, block)["model"],
            "requests": self.requests(run, block),
            "attacked": [self("attack", **run.names, attack=name, block=block)["attacked"] for name in attacks],
            "prepared": [
                self("prepare", dataset=run.dataset, forget=run.forget, defense=name, block=block)["prepared"]
                for name in trained
            ],
        }
        if "before" in self.plan.needs_of(run):
            above["original"] = self.base(run, block)["model"]
            told["bases"] = self.bases(run, block)
        if "told" in self.plan.needs_of(run):
            above["kept"] = self.model(run, block)["kept"]
        if observer := self._observer(run):  # one for all repetitions, so that their features are the same
            above["observer"] = self._shared(run.dataset, observer, PLAIN, "0")["model"]
        modules = [f"tasks.{told['task']}", *(self._module("defenses", name) for name in defenses)]
        return told, above, "predict", *modules

    def _measure(self, **names: str) -> tuple[Any, ...]:
        run = Run(**names)
        judged, every = self.plan.attacks_of(run, "on_labels"), self.plan.blocks(run)
        kinds = {name: method_of(self.config, "attacks", name) for name in judged}
        shows = [method.literal(method.path("attacks", kind), "METRICS") or {} for kind in kinds.values()]
        # Shadow servers by the reference, and by the run's own unlearner unless that trains a base of its own.
        reference, own = self.config["reference"], run.steps[-1][1]
        own = reference if own == ORIGINAL or self._trainer(run) != PLAIN else own
        shadows = {
            name: [replace(run, forget=request, unlearner=by) for by in dict.fromkeys((reference, own))]
            for name in judged
            if (request := self._shadow_request(name))
        }
        told: dict[str, Any] = {
            "task": task_of(self.config, run.model),
            "metrics": self.plan.metrics_of(run),
            "families": self.plan.families_of(run),
            "blocks": every,
            "judges": {name: self._told("attacks", name, "judge") for name in judged},
            "shows": {metric: how for one in shows for metric, how in one.items()},
            "shadows": {name: [len(self.plan.blocks(one)) for one in of] for name, of in shadows.items()},
        }
        above = {
            "outputs": [self("predict", **run.names, block=block)["outputs"] for block in every],
            "probed": [self("probe", **run.names, attack=a, block=b)["probed"] for a in judged for b in every],
            "shadows": [
                self("probe", **one.names, attack=name, block=block)["probed"]
                for name, of in shadows.items()
                for one in of
                for block in self.plan.blocks(one)
            ],
        }
        if "seconds" in self.plan.needs_of(run):
            told["bases"] = [base for block in every for base in self.bases(run, block)]
            above["trained"] = [self.base(run, block)["record"] for block in every]
            above["unlearned"] = [self.model(run, block)["record"] for block in every if run.unlearner != ORIGINAL]
        families = [f"metrics.{name}" for name in told["families"]]
        return told, above, "measure", *families, *(self._module("attacks", name) for name in judged)

    # Tables, figures and pages

    def _table(self, paper: str, table: str) -> tuple[Any, ...]:
        return self._item(paper, table), self._behind(paper, table), "report.tables", "report.formats"

    def _figure(self, paper: str, figure: str) -> tuple[Any, ...]:
        above = self._behind(paper, figure)
        kind = self.plan.papers[paper]["figures"][figure]["kind"]
        if kind in SHOWN:  # it reads images besides rows
            runs = dict.fromkeys((run, cell.attack) for cell in self.plan.figures[paper, figure] for run in cell.runs)
            above["images"] = list({run.dataset: self._images(run.dataset) for run, _ in runs}.values())
            for stage, output in SHOWN[kind].items():
                above[output] = [
                    self._shown(stage, output, run, attack, block)
                    for run, attack in runs
                    for block in self.plan.blocks(run)[:1]
                ]
        return self._item(paper, figure), above, "report.figures"

    def _shown(self, stage: str, output: str, run: Run, attack: str, block: str) -> File:
        """Return a file with images of a run: its last request, or an output of one of its jobs."""
        if stage == "request":
            return self.requests(run, block)[-1]
        names = {} if stage == "predict" else {"attack": attack}
        return self(stage, **run.names, **names, block=block)[output]

    def _page(self, paper: str) -> tuple[Any, ...]:
        about = self.plan.papers[paper]
        above = self._behind(paper)
        above["tables"] = [self("table", paper=paper, table=name)["csv"] for name in about.get("tables", {})]
        above["figures"] = [self("figure", paper=paper, figure=name)["svg"] for name in about.get("figures", {})]
        return self._item(paper), above, "report.page"

    def _front(self) -> tuple[Any, ...]:
        look = [f"workflow/report/{file}" for file in LOOK]
        summaries = [self("page", paper=paper)["summary"] for paper in self.plan.papers]
        return {}, {"summaries": summaries, "look": look}, "report.front"

    def _item(self, paper: str, name: str | None = None) -> dict[str, Any]:
        """Return a hash of everything that the configuration says about a table, a figure or a whole page."""
        cells = [repr(item) for (p, n), item in self.plan.items.items() if p == paper and name in (None, n)]
        marked = [self.config[name] for name in ("did_not_forget", "reference")]
        return {"cells": stable_seed(cells, self.plan.papers[paper], marked)}

    def _behind(self, paper: str, name: str | None = None) -> dict[str, Any]:
        runs = self.plan.runs(paper, name)
        if name not in self.plan.papers[paper].get("figures", {}):  # a table marks what did not forget
            beside = {one for run in runs for one in self.plan.yardsticks(run)} & set(self.plan.asked)
            runs = sorted({*runs, *beside}, key=lambda run: tuple(run.names.values()))
        rows = [self("measure", **run.names)["rows"] for run in runs]
        own = sorted(file.name for file in (ROOT / "config/papers" / paper).glob("*.[pj]*"))
        look = [f"workflow/report/{file}" for file in LOOK] + [f"config/papers/{paper}/{file}" for file in own]
        return {"rows": rows, "look": look}

    # Parts of the above

    def _images(self, dataset: str) -> File:
        return self("data", dataset=dataset)["images"]

    def _told(self, section: str, name: str, function: str = "", dataset: str = "") -> dict[str, Any]:
        """Return the name of a method's file and its keywords on a data set, or those of one `function` of the file."""
        keywords = keywords_of(self.config, section, name, function, dataset)
        told = {"method": method_of(self.config, section, name), "keywords": keywords}
        if section == "requests" and "spares" in self.config[section][name]:
            told["spares"] = self.config[section][name]["spares"]
        if section == "requests" and (files := self._files(name)):
            told["files"] = {path: self._content(path, name) for path in files["files"]}
        return told

    def _files(self, request: str) -> dict[str, list[str]]:
        """Return the files that a request's methods read, under the name that a job has for them."""
        found = read_by(self.config, "requests", request)
        return {"files": found} if found else {}

    @staticmethod
    def _content(path: str, request: str) -> str:
        try:
            return digest(path)
        except OSError as error:
            raise ConfigError(f"requests.{request} cannot read {path!r} ({error.strerror}).") from error

    def _modules(self, section: str, name: str) -> list[str]:
        """Return the modules that an entry runs: its own, and that of the entry it wraps."""
        return [method.module(SECTIONS[section], file) for file in files_of(self.config, section, name)]

    def _module(self, section: str, name: str) -> str:
        return method.module(SECTIONS[section], method_of(self.config, section, name))
