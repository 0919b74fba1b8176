"""The samples whose removal is predicted to raise a model's loss on other data most, most harmful first.

Koh and Liang (ICML 2017) predict what a training without the sample z would change. Of n samples, its removal moves the
weights by 1/n H^-1 dl(z), and so the mean loss L on other data by 1/n times

    I(z) = dL^T H^-1 dl(z),   H the mean Hessian over the training data at the weights at hand.

The request is the samples with the largest I(z): to first order also the set of that size whose removal raises L most,
since predictions add up. This is the strongest adversary that the healing paper names and does not run (its Section 3):
it knows the parameters, the training data, and by `split` the very data on which the model will be measured.

For H stands the true Fisher matrix, the Gauss-Newton matrix of the cross entropy, plus `damping` times the identity, as
in later work (Bae et al., NeurIPS 2022): a trained network's Hessian has negative eigenvalues, on which the formula
says nothing. For softmax regression the two are the same. H^-1 dL is solved once by conjugate gradients; then I(z) of
all samples is one pass of Jacobian-vector products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch

from palimpsest.curvature import conjugate_gradients, fisher_product, gradient, slopes
from palimpsest.data import Images, Samples
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, _ranked
from palimpsest.seeds import stable_seed

NEEDS = ("model",)
TASKS = ("classification",)


@checked
def choose(
    images: Images,
    at: Choice,
    *,
    count: Annotated[int, "[1, train)"] = 25,
    split: str = "test",
    damping: Annotated[float, "(0, inf)"] = 0.01,
    steps: Annotated[int, "[1, inf)"] = 50,
    tolerance: Annotated[float, "[0, 1)"] = 1e-3,
    samples: Annotated[int, "[1, inf)"] | None = 5000,
    classes: Sequence[Annotated[int, "[0, classes)"]] | None = None,
    keep_classes: bool = False,
    batch_size: Annotated[int, "[1, inf)"] = 500,
) -> Request:
    """The `count` training samples with the largest I(z) under `at.model`, largest first, ties in upstream order.

    split: whose loss shall rise. damping: of H; 0.01 is ours. steps, tolerance: of conjugate gradients, which
    end at the first that is reached; ours. samples: of how many training samples, drawn with the seed, H is the mean;
    None takes all. classes: choose among the samples of these alone. keep_classes: whether a class may not lose its
    last sample. batch_size: samples at once.
    Raises `RequestError` where there are too few and where the data has no such split, `Diverged` where a number is not
    finite.
    """
    assert at.model is not None  # NEEDS
    model = at.model
    device, train = model.mean.device, images.splits["train"]
    if split == "train" or split not in images.splits or not len(images.splits[split].labels):
        others = ", ".join(sorted(name for name, part in images.splits.items() if name != "train" and len(part.labels)))
        raise RequestError(f"influence: split cannot be {split!r}; the data has {others or 'nothing besides train'}")
    found = _ranked.among(images, classes, count)

    def of(samples: Samples, index: torch.Tensor) -> Samples:
        return Samples(*(part[index.to(part.device)].to(device) for part in samples))

    generator = torch.Generator().manual_seed(stable_seed(at.seed, "influence"))
    bent = of(train, torch.randperm(len(train.labels), generator=generator)[:samples])
    other = Samples(*(part.to(device) for part in images.splits[split]))
    solved = conjugate_gradients(
        lambda u: fisher_product(model, bent, u, labels="model", batch_size=batch_size),
        gradient(model, other, batch_size=batch_size) / len(other.labels),
        damping=damping,
        steps=steps,
        tolerance=tolerance,
    )
    scores = slopes(model, of(train, found), solved, batch_size=batch_size)
    return _ranked.first(images, found, scores, count, keep_classes)
