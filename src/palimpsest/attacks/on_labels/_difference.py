"""Label leakage by differences: a decision tree on what separates a head's parameters from the server's own.

    d_j = w_j - w_server,   label 1 for a head of a forgotten class, 0 for a retained one

(Sections IV-B1 and VI-B1). A tree is trained on labelled differences and calls each head of the target one or the
other. The paper does not state on what it is trained and tested. If both come from the target itself, labels and all,
the split decides nothing: a head's difference shows the class that it was trained on, whatever the server forgot, and a
tree that has seen other heads of that class need only recognise it. That is `oracle_split`, which most likely explains
the published 91 to 96% and is no attack. By default [R] the tree is trained on shadow servers that the attacker
unlearnt itself, one for each class (docs/methods.md#l-3). Where those that forgot the target's classes are left out
(`_heads.leave_class_out`), recognising a class hurts: all heads of the class in question were retained ones.

Between servers that were trained apart the shadow tree has a harder task than the paper's text suggests. The units of
one network's last hidden layer are not those of another's, so a coordinate of d means nothing there. Two arrangements
[R, not the paper's] make vectors comparable. `own_class_first` removes the name of the class: the row of the head's own
class comes first, then the other rows in order. `sorted` also removes the names of the units: the weights of each row
are sorted in ascending order.

A class is judged by the majority of its heads [R], since eq. 12 counts classes. The printed numbers most likely count
the tested heads of the split, 80 of 400 (docs/methods.md#l-7): `head_calls`.
Whatever the protocol, the number means something only beside that of a server that forgot nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch

from palimpsest.attacks.on_labels._heads import Heads, Judged, Known, Vector
from palimpsest.ranges import checked
from palimpsest.seeds import stable_seed

Arrange = Literal["as_is", "own_class_first", "sorted"]


@checked
def attack(
    heads: Heads,
    shadows: Sequence[Known] = (),
    truth: torch.Tensor | None = None,
    *,
    seed: int,
    protocol: Literal["shadow", "oracle_split"] = "shadow",
    vector: Literal["weight_and_bias", "weight"] = "weight_and_bias",
    arrange: Literal["as_is", "own_class_first", "sorted"] = "as_is",
    test_share: Annotated[float, "(0, 1)"] = 0.5,
    max_depth: Annotated[int, "[1, inf)"] | None = None,
    min_samples_leaf: Annotated[int, "[1, inf)"] = 1,
) -> Judged:
    """Which classes the server behind `heads` forgot.

    heads: trained on the target's features, H of them for K classes. shadows: heads trained as these were on the
    features of servers of which it is known what they forgot. truth: bool (K,), what the target forgot, or is said to
    have; read by `oracle_split` alone. seed: of the split, and of the tree's choice between equally good cuts.
    protocol [R]: `shadow`, or `oracle_split`, the tree trained on some of the target's labelled heads and tested on the
    rest. vector: the layer's weights and biases, or its weights [R]. arrange: see above. test_share: of each class's
    heads, in the split, at least one on both sides [R]. max_depth, min_samples_leaf: of scikit-learn's tree, whose
    defaults these are [R].

    In the result `scores` are the shares of a class's heads that the tree calls forgotten, `threshold` is a half, which
    a score must pass, and `values` are the sums of absolute differences. In the split, only tested heads count.
    Raises `ValueError` where the protocol lacks what it needs.
    """
    features = differences(heads, vector, arrange)
    tested = torch.ones(len(features), dtype=torch.bool)
    if protocol == "oracle_split":
        if truth is None:
            raise ValueError("label_leakage_difference: oracle_split needs the truth about the target")
        tested = split(heads.trained_on.cpu(), test_share, seed)
        known, labels = features[~tested], heads.of_class(truth)[~tested]
    elif not shadows:
        raise ValueError("label_leakage_difference: the tree is trained on shadow servers, and there are none")
    else:
        known = torch.cat([differences(shadow.heads, vector, arrange) for shadow in shadows])
        labels = torch.cat([shadow.heads.of_class(shadow.forgotten) for shadow in shadows])
    if not bool(labels.any()) or bool(labels.all()):
        raise ValueError("label_leakage_difference: the tree needs heads of forgotten and of retained classes")
    tree = _grown(known.numpy().tobytes(), labels.numpy().tobytes(), seed, max_depth, min_samples_leaf)
    called = torch.from_numpy(tree.predict(features.numpy()))
    scores = heads.mean_by_class(called, among=tested)
    return Judged(scores > 0.5, scores, features.abs().sum(1), called, 0.5)


@lru_cache(maxsize=8)
def _grown(known: bytes, labels: bytes, seed: int, max_depth: int | None, min_samples_leaf: int) -> Any:
    """Return a tree grown on vectors, float64 (N, V), and labels, bool (N,).

    Several targets share their shadow servers, and so the tree, which is what costs the time.
    """
    import numpy as np
    from sklearn.tree import DecisionTreeClassifier  # half a second, which every other import of attacks would pay

    state = stable_seed("label_leakage_difference", seed) % 2**32
    tree = DecisionTreeClassifier(max_depth=max_depth, min_samples_leaf=min_samples_leaf, random_state=state)
    return tree.fit(np.frombuffer(known).reshape(len(labels), -1), np.frombuffer(labels, dtype=bool))


def head_calls(
    heads: Heads, truth: torch.Tensor, *, seed: int, vector: Vector = "weight_and_bias", test_share: float = 0.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a tree grown on most of the target's labelled heads calls the others, and what these are, bool (n,) each.

    test_share [I, docs/methods.md#l-7]: of all heads, at random; the printed numbers lie on a grid of 80 of 400.
    """
    order = torch.randperm(
        len(heads.trained_on), generator=torch.Generator().manual_seed(stable_seed("label_leakage heads", seed))
    )
    tested = torch.zeros(len(order), dtype=torch.bool)
    tested[order[: round(test_share * len(order))]] = True
    features, labels = differences(heads, vector), heads.of_class(truth)
    tree = _grown(features[~tested].numpy().tobytes(), labels[~tested].numpy().tobytes(), seed, None, 1)
    return torch.from_numpy(tree.predict(features[tested].numpy())), labels[tested]


def differences(heads: Heads, vector: Vector = "weight_and_bias", arrange: Arrange = "as_is") -> torch.Tensor:
    """Every head's vector less the server's, float64 (H, V)."""
    if arrange != "as_is":
        # A stable sort by "not my class" brings the own row to the front and leaves the others in order.
        others = torch.arange(heads.bias.shape[1], device=heads.bias.device) != heads.trained_on[:, None]
        order = others.byte().argsort(dim=1, stable=True)
        weight = (heads.weight - heads.server_weight).gather(1, order[:, :, None].expand_as(heads.weight))
        bias = (heads.bias - heads.server_bias).gather(1, order)
        if arrange == "sorted":
            weight = weight.sort(2).values
        nothing = torch.zeros_like(heads.server_weight), torch.zeros_like(heads.server_bias)
        return Heads(weight, bias, heads.trained_on, *nothing).vectors(vector)[0]
    ours, server = heads.vectors(vector)
    return ours - server


def split(trained_on: torch.Tensor, test_share: float, seed: int) -> torch.Tensor:
    """Which heads are tested, bool (H,): of each class round(test_share * its heads), at random.

    Raises `ValueError` where a class would have no head on one of the two sides.
    """
    tested = torch.zeros(len(trained_on), dtype=torch.bool)
    generator = torch.Generator().manual_seed(stable_seed("label_leakage_difference", "split", seed))
    for label in trained_on.unique().tolist():
        members = (trained_on == label).nonzero().flatten()
        count = round(test_share * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"label_leakage_difference: test_share {test_share} leaves class {label}, which has {len(members)} "
                "heads, without one to train on or without one to test"
            )
        tested[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return tested
