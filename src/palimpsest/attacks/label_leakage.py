"""Label leakage by parameters: heads trained on a server's frozen features, judged by dot products and by differences.

The heads of `palimpsest.auxiliary` are what all three parameter attacks of the label-leakage paper start from
(S001:62-106), so they are trained once: the dot product with Youden's threshold or k-means (`label_leakage_dot`) and
the difference with a decision tree (`label_leakage_difference`) judge the same ones.

Youden's threshold and the tree are learnt on shadow servers (L-3). As the paper has them neither carries over well from
one server to another: products grow with a server's norm, and hidden units of two trainings do not correspond.
`youden_standardised` and `tree_sorted` mend that, ours. `youden_oracle` and `tree_oracle` learn from the target's own
truth, as the paper may have done: a bound, and no attack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from palimpsest import auxiliary
from palimpsest.attacks import Judgement, label_leakage_difference, label_leakage_dot
from palimpsest.auxiliary import HeadInit, Heads, Known, Vector
from palimpsest.data import Samples
from palimpsest.models import Network


def attack(
    server: Network,
    shape: Sequence[int],
    classes: int,
    *,
    seed: int,
    own_samples: Samples,
    subsets: int = 20,
    subset_size: int = 100,
    head_init: HeadInit = "torch",
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int | None = 10,
) -> Heads:
    """The heads of every class; keywords and errors as in `auxiliary.train`. shape, classes: not needed."""
    return auxiliary.train(
        server,
        *own_samples,
        seed=seed,
        subsets=subsets,
        subset_size=subset_size,
        head_init=head_init,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
    )


def judge(
    found: Mapping[str, torch.Tensor],
    *,
    seed: int,
    truth: torch.Tensor,
    shadows: Sequence[tuple[Mapping[str, torch.Tensor], torch.Tensor]],
    vector: Vector = "weight_and_bias",
    most_shadows: int = 5,
    oracle: bool = True,
) -> Judgement:
    """Which classes the server forgot, by each screening.

    shadows: those that forgot one of the target's classes are left out, unless none is left; of the others the first
    `most_shadows` are used [R]. oracle: whether the two bounds are computed too.
    """
    heads = Heads(**found)
    known = [Known(Heads(**of), forgotten) for of, forgotten in shadows]
    known = (auxiliary.leave_class_out(known, truth) or known)[:most_shadows]
    dot = {
        "youden": label_leakage_dot.attack(heads, known, vector=vector),
        "youden_standardised": label_leakage_dot.attack(heads, known, vector=vector, standardise=True),
        "kmeans": label_leakage_dot.attack(heads, vector=vector, screening="kmeans"),
    }
    trees = {
        "tree": label_leakage_difference.attack(heads, known, seed=seed, vector=vector),
        "tree_sorted": label_leakage_difference.attack(heads, known, seed=seed, vector=vector, arrange="sorted"),
    }
    if oracle:
        dot["youden_oracle"] = label_leakage_dot.attack(heads, truth=truth, vector=vector, protocol="oracle_threshold")
        trees["tree_oracle"] = label_leakage_difference.attack(
            heads, truth=truth, seed=seed, vector=vector, protocol="oracle_split"
        )
    return Judgement(
        {name: judged.decisions for name, judged in (dot | trees).items()},
        {
            "dot_products": (dot["kmeans"].values, heads.trained_on),
            "absolute_differences": (trees["tree"].values, heads.trained_on),
        },
    )
