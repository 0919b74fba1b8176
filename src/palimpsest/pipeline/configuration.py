"""The configuration: merged with its scale and the papers' own parts, and checked before the first job.

config/config.yaml lists what exists, each paper's config.yaml what that paper alone needs. A scale says what stands in
for what, and which budgets are cut. A configuration that cannot be run is refused in one sentence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from palimpsest import ranges
from palimpsest.pipeline import method, papers
from palimpsest.pipeline.errors import ConfigError, check, unknown

ROOT = Path(__file__).parents[3]
CLASSIFICATION = "classification"  # the task of a network that names none
HELD_OUT = "held_out"  # the split that `hold_back` must make for an attack to be tried on it
# Keys of an entry that the workflow reads itself and does not pass to the method.
RESERVED = {
    "datasets": {"method", "subset", "hold_back"},
    "models": {"method", "task", "pretrained", "observer"},
    "requests": {
        *("method", "repetitions", "served", "against", "surrogate", "held_out_base", "one_base", "once", "spares")
    },
    "unlearners": {"method", "also_in", "from_nearest", "where"},
    "attacks": {"method", "images", "equally_sure", "towards", "made_on", "shadows"},
    "defenses": {"method"},
}
# On what an attack on images may be tried (`attacks.on_images.aimed_at`), and towards whose answers: those of the model
# before unlearning, of another repetition's, or of a model that never had the forgotten data.
CHOICES = {"images": ("forget", "unseen", "retained", HELD_OUT), "towards": ("original", "another", "reference")}
# By section, the folder whose files its entries name.
SECTIONS = {section: section for section in RESERVED} | {"datasets": "data"}
# By section, the keyword by which an entry wraps another entry of the section, whose keywords become its `settings`. A
# file that takes only some others says which (`unlearners`).
WRAPS = {"unlearners": "backbone", "requests": "hostile"}
PROBES = "probes"  # the budgets that hold for one data set, named `<data set>/<attack on labels>`


def scale_file(scale: object) -> Path:
    """Return the file of a scale; a `ConfigError` lists the scales that exist."""
    folder = ROOT / "config" / "scales"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if scale not in known:
        raise ConfigError(unknown("config", "scale", str(scale), known))
    return folder / f"{scale}.yaml"


def load(path: Path | str = "config/config.yaml", **overrides: Any) -> dict[str, Any]:
    """Return the configuration as Snakemake would merge it, for use without Snakemake."""
    config: dict[str, Any] = yaml.safe_load((ROOT / path).read_text()) | overrides
    _update(config, yaml.safe_load(scale_file(config["scale"]).read_text()))
    return resolve(config | overrides)


def write(config: Mapping[str, Any], path: Path | str) -> None:
    """Write a resolved configuration beside the results that it made; raises `ConfigError` where the disk is full."""
    final = Path(path)
    text = "# The whole configuration of the last run at this scale, merged and with the scale's budgets applied.\n"
    text += yaml.safe_dump(dict(config), sort_keys=False, width=120)
    if final.is_file() and final.read_text() == text:
        return
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, final)
    except OSError as error:
        raise ConfigError(f"{final} cannot be written ({error.strerror}); nothing has run.") from error
    finally:
        temporary.unlink(missing_ok=True)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a merged configuration, add the papers' own parts and apply the scale's budgets; all values are plain
    types.

    Raises `ConfigError` for an unknown key, method, keyword, data set or scale, and for a value outside its range.
    """
    merged = papers.fill(config)
    check(merged, "config", "the configuration")
    merged["tuning"] = {**merged["tuning"], **merged["budgets"].get("tuning", {})}
    for kind, cuts in merged["budgets"].items():
        for name, values in cuts.items() if kind in SECTIONS else ():
            if name not in merged[kind]:
                raise ConfigError(unknown(f"scale {merged['scale']}: budgets.{kind}", "entry", name, merged[kind]))
            merged[kind][name] = {**merged[kind][name], **values}
    for section in SECTIONS:
        for name, entry in merged[section].items():
            _check_entry(merged, section, name, entry)
    for name, cut in merged["budgets"].get(PROBES, {}).items():
        where, (data_set, _, attack) = f"scale {merged['scale']}: budgets.{PROBES}", name.partition("/")
        for section, part in (("datasets", data_set), ("attacks", attack)):
            if part not in merged[section]:
                raise ConfigError(
                    unknown(where, f"{section.removesuffix('s')} (<data set>/<attack>)", part, merged[section])
                )
        file = method_of(merged, "attacks", attack)
        _check_keywords(f"{where}.{name}", cut, method.keywords("attacks", file, "attack"))
    for name, recipe in merged["recipes"].items():
        _check_keywords(f"recipes.{name}", recipe, method.settings())
        if "/" not in name and not {"epochs", "batch_size", "lr"} <= set(recipe):
            raise ConfigError(f"recipes.{name} must give at least epochs, batch_size and lr.")
    for section in WRAPS:
        for name, entry in merged[section].items():
            _check_wrapped(merged, section, name, entry)
    _check_stand_ins(merged)
    for entry in merged["requests"].values():  # what stands in for a network does so for the attacker's too
        if "surrogate" in entry:
            standing = merged["stand_ins"].get("models", {})
            ours = ((name, standing.get(name)) for name in surrogates(entry))
            entry["surrogate"] = [*dict.fromkeys(new if isinstance(new, str) else name for name, new in ours)]
    if merged["tuning"]["first"] < merged["repetitions"]:
        raise ConfigError(
            f"tuning.first cannot be {merged['tuning']['first']}: the tables use the repetitions 0 to "
            f"{merged['repetitions'] - 1}, and tuning needs its own."
        )
    if merged["reference"] not in merged["unlearners"]:
        raise ConfigError(unknown("reference", "unlearner", merged["reference"], merged["unlearners"]))
    nearer, known = merged["did_not_forget"]["nearer"], method.literal(method.PACKAGE / "tune.py", "METRICS")
    if nearer not in known:
        raise ConfigError(unknown("did_not_forget.nearer", "metric", nearer, known))
    return merged


def method_of(config: Mapping[str, Any], section: str, name: str) -> str:
    """Return the name of the file that an entry of a section uses: its `method`, else the entry's own name."""
    return str(config[section][name].get("method", name))


def keywords_of(
    config: Mapping[str, Any], section: str, name: str, function: str = "", dataset: str = ""
) -> dict[str, Any]:
    """Return the keywords of an entry, or only those that one `function` of its method takes.

    A variant (`method: other`) starts from those of the other entry.
    """
    found, wraps = _stated(config, section, name, dataset), WRAPS.get(section, "")
    if inner := found.get(wraps):  # a method that wraps another entry gets that entry's keywords as its settings
        function = method.FUNCTIONS[SECTIONS[section]][0]
        found["settings"] = {**keywords_of(config, section, inner, function, dataset), **found.get("settings", {})}
        found[wraps] = method_of(config, section, inner)
    taken = method.keywords(SECTIONS[section], method_of(config, section, name), function) if function else found
    return {key: value for key, value in found.items() if key in taken}


def _stated(config: Mapping[str, Any], section: str, name: str, dataset: str = "") -> dict[str, Any]:
    """The keywords of an entry as they stand there, over those of the entry of which it is a variant."""
    entry, parent = config[section][name], method_of(config, section, name)
    inherits = parent != name and parent in config[section]
    inherited = _stated(config, section, parent, dataset) if inherits else {}
    found = {**inherited, **{key: value for key, value in entry.items() if key not in RESERVED[section]}}
    return found | (entry.get("where", {}).get(dataset, {}) if section == "unlearners" else {})


def files_of(config: Mapping[str, Any], section: str, name: str, dataset: str = "") -> dict[str, dict[str, Any]]:
    """The files of methods that an entry runs, each with its keywords: its own, and that of the entry it wraps."""
    found = keywords_of(config, section, name, "", dataset)
    inner = found.get(WRAPS.get(section, ""))
    return {method_of(config, section, name): found} | ({str(inner): found["settings"]} if inner else {})


def needs_of(config: Mapping[str, Any], section: str, name: str) -> set[str]:
    """What the files that an entry runs declare that they need."""
    return {need for file in files_of(config, section, name) for need in method.needs(SECTIONS[section], file)}


def read_by(config: Mapping[str, Any], section: str, name: str) -> list[str]:
    """The paths of the files that an entry's methods read, as they say by `READS = (keyword, …)`."""
    found = files_of(config, section, name).items()
    of = {file: method.literal(method.path(SECTIONS[section], file), "READS") or () for file, _ in found}
    return [str(keywords.get(keyword, "")) for file, keywords in found for keyword in of[file]]


def grid_of(config: Mapping[str, Any], name: str) -> dict[str, list[Any]]:
    """Return the values that rule `tune` tries first, by an unlearner's keyword that is given as `{tune: [...]}`."""
    found = keywords_of(config, "unlearners", name)
    grid = {key: list(value["tune"]) for key, value in found.items() if _is_grid(value)}
    if len(grid) > 1:
        raise ConfigError(f"unlearners.{name} can tune one keyword; it has {', '.join(grid)}.")
    return grid


def recipe_of(config: Mapping[str, Any], dataset: str, model: str) -> dict[str, Any]:
    """Return the training recipe of a model on a data set: that of `model`, overridden by that of `dataset/model`."""
    recipes = config["recipes"]
    if model not in recipes and f"{dataset}/{model}" not in recipes:
        raise ConfigError(f"recipes has neither {model!r} nor '{dataset}/{model}'; it takes {', '.join(recipes)}.")
    return {**recipes.get(model, {}), **recipes.get(f"{dataset}/{model}", {})}


def task_of(config: Mapping[str, Any], model: str) -> str:
    """What a network is for: a file of tasks/."""
    return str(config["models"][model].get("task", CLASSIFICATION))


def _check_entry(config: Mapping[str, Any], section: str, name: str, entry: Mapping[str, Any]) -> None:
    folder, file = SECTIONS[section], method_of(config, section, name)
    where = f"config.yaml: {section}.{name}"
    if file not in method.files(folder):
        raise ConfigError(unknown(where, "method", file, method.files(folder)))
    if "task" in entry and section == "models" and entry["task"] not in method.files("tasks"):
        raise ConfigError(unknown(where, "task", str(entry["task"]), method.files("tasks")))
    if "pretrained" in entry and section == "models" and not method.has(folder, file, "pretrained"):
        raise ConfigError(
            f"{where}.pretrained: {folder}/{file}.py has no pretrained(), so it takes no published weights."
        )
    if "observer" in entry and section == "models":
        _check_observer(config, where, entry)
    valid = method.every_keyword(folder, file)
    tuned = {key: value for key, value in entry.items() if isinstance(value, dict) and "tune" in value}
    for key, value in tuned.items():
        if section != "unlearners" or not _is_grid(value):
            raise ConfigError(
                f"{where}.{key} cannot be {value!r}; an unlearner's keyword may be {{tune: [two values or more]}}."
            )
    fixed = {key: value for key, value in entry.items() if key not in tuned}
    for given in (fixed, *({key: one} for key, value in tuned.items() for one in value["tune"])):
        _check_keywords(where, given, valid, RESERVED[section])
    for dataset, own in entry.get("where", {}).items() if section == "unlearners" else ():
        if dataset not in config["datasets"]:
            raise ConfigError(unknown(f"{where}.where", "data set", dataset, config["datasets"]))
        _check_keywords(f"{where}.where.{dataset}", own, valid)
    for key, words in CHOICES.items():
        if section == "attacks" and entry.get(key, words[0]) not in words:
            raise ConfigError(unknown(f"{where}.{key}", "word", str(entry[key]), words))
    if section == "attacks" and "equally_sure" in entry and entry.get("images", "forget") not in CHOICES["images"][:2]:
        raise ConfigError(f"{where}.equally_sure pairs forgotten and unseen images, so images must be one of the two.")
    if section == "attacks" and entry.get("made_on", config["reference"]) not in {*config["unlearners"]}:
        raise ConfigError(unknown(f"{where}.made_on", "unlearner", str(entry["made_on"]), config["unlearners"]))
    for key, other in (("against", "unlearners"), ("surrogate", "models"), ("shadows", "requests")):
        if key in RESERVED[section] and key in entry:
            for name in surrogates(entry) if key == "surrogate" else [str(entry[key])]:
                if name not in config[other]:
                    raise ConfigError(unknown(f"{where}.{key}", other, name, config[other]))
    if section == "requests":
        _check_against(config, where, file, entry)


def surrogates(entry: Mapping[str, Any]) -> list[str]:
    """Return the networks on which a request is crafted in the place of the one that is asked: none, one or several."""
    if "surrogate" not in entry:
        return []
    said = entry["surrogate"]
    return (
        [*map(str, said)] if said and isinstance(said, list) else [str(said)]
    )  # what is no network is refused by name


def _check_observer(config: Mapping[str, Any], where: str, entry: Mapping[str, Any]) -> None:
    """Refuse an observer that draws pictures itself, and one of a network whose answers are no pictures."""
    observer, task = str(entry["observer"]), str(entry.get("task", CLASSIFICATION))
    fit = [name for name in config["models"] if not method.has("tasks", task_of(config, name), "pictured")]
    if observer not in fit:
        raise ConfigError(unknown(where, "observer", observer, fit))
    if not method.has("tasks", task, "pictured"):
        raise ConfigError(f"{where}.observer: tasks/{task}.py has no pictured(), so there is nothing to observe.")


def _check_against(config: Mapping[str, Any], where: str, file: str, entry: Mapping[str, Any]) -> None:
    """Refuse a request that is made against an unlearner and names none, or one that does not say what is needed."""
    if "unlearner" not in method.needs("requests", file):
        return
    needed = method.literal(method.path("requests", file), "AGAINST")

    def fits(name: str) -> bool:
        own = method_of(config, "unlearners", name)
        return own in method.files("unlearners") and (not needed or method.has("unlearners", own, needed))

    if entry.get("against") not in config["unlearners"] or not fits(entry["against"]):
        fit = [*filter(fits, config["unlearners"])]
        raise ConfigError(
            f"{where}.against cannot be {entry.get('against')!r}: requests/{file}.py is made against an unlearner"
            f"{f' that has a function {needed}()' if needed else ''}; it takes {', '.join(fit) or 'none'}."
        )


def _is_grid(value: object) -> bool:
    tried = value["tune"] if isinstance(value, dict) and set(value) == {"tune"} else None
    return isinstance(tried, list) and len(tried) > 1


def _check_keywords(
    where: str, entry: Mapping[str, Any], valid: Mapping[str, str], reserved: Iterable[str] = ()
) -> None:
    """Refuse a keyword that a method does not have, and a value out of the range in its annotation."""
    for key, value in entry.items():
        if key not in {*valid, *reserved}:
            raise ConfigError(unknown(where, "keyword", key, valid))
        if key in valid and (refusal := ranges.parse(valid[key]).refusal(where, key, value)):
            raise ConfigError(f"{refusal}.")


def _check_wrapped(config: Mapping[str, Any], section: str, name: str, entry: Mapping[str, Any]) -> None:
    """Refuse an entry that shall wrap another and names none, or one that cannot be wrapped."""
    keyword, others = WRAPS[section], config[section]
    taken = {other: method.keywords(section, method_of(config, section, other)) for other in others}
    if keyword not in taken[name]:
        return
    fit, why = {other for other in others if keyword not in taken[other]}, ""
    if wraps := method.literal(method.path(SECTIONS[section], method_of(config, section, name)), "WRAPS"):
        needs = {other: needs_of(config, section, other) for other in fit}
        fit = {other for other in fit if needs[other] >= {*wraps["with"]} and not needs[other] & {*wraps["without"]}}
        why = f": {wraps['why']}"
    where, inner = f"config.yaml: {section}.{name}", str(_stated(config, section, name).get(keyword, ""))
    if inner not in fit:
        raise ConfigError(f"{where}.{keyword} cannot be {inner!r}{why}; it takes {', '.join(sorted(fit)) or 'none'}.")
    _check_keywords(f"{where}.settings", entry.get("settings", {}), taken[inner])


def _check_stand_ins(config: Mapping[str, Any]) -> None:
    for section in ("datasets", "models", "requests"):
        for paper_name, substitute in config["stand_ins"].get(section, {}).items():
            for name in substitute.values() if isinstance(substitute, dict) else [substitute]:
                if name is not None and name not in config[section]:
                    where = f"scale {config['scale']}: stand_ins.{section}.{paper_name}"
                    raise ConfigError(unknown(where, section, str(name), config[section]))


def _update(config: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _update(config[key], value)
        else:
            config[key] = value
