"""Amnesiac unlearning: take back the parameter updates of every batch that held the data (Graves et al., AAAI 2021).

    theta_u = theta_T - sum_{steps t whose batch holds a sample of the request} (theta_{t+1} - theta_t)

and then fine-tune on what is left (malicious paper, Section 2; public code: AmnesiacML's notebooks; docs/methods.md
2.2). The base model must have been trained with a log of the updates, by `train_base`, which has to know the requests
in advance; the training is bit for bit the same as without a log. The public code stores every such update in a file of
its own and subtracts them later. Only their sums are needed, in float64, in which they do not drift. A batch that
several requests touch must be taken back once, whichever request comes first. So there is a sum for every set of
requests that some batch touches, as many as such sets occur. A request takes back the sums of all sets that it is in;
the other sums, and the updates of its fine-tuning, stay for the requests to come.

As in public code, weights and biases are taken back, BatchNorm's scale and shift included. Running statistics, which
saw the data too, stay until fine-tuning moves them. With shuffled batches of 64 a whole class of ten touches all but
0.1% of the batches: what is left after the subtraction is nearly the initial network, and fine-tuning does the work.

Requests that modify data (docs/methods.md 2.5) cause the same subtraction, then fine-tuning with the replacements. This
is our reading, since the malicious paper is silent. A replacement then stands in its sample's place for later requests
too.

Values: 1 epoch of fine-tuning at lr 1e-4 (malicious paper, Section 5.1). The notebooks, which the leakage paper's
accuracies fit, train on with their Adam at 1e-3 for 10 epochs: `epochs=10, lr=1e-3`. Neither paper names another
optimiser for it, so it is the base recipe's, with its batch size and weight decay, at a constant rate. It starts fresh,
where the notebooks keep the moments of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Annotated

import torch
from torch import nn

from palimpsest.curvature import of_batches, request_gradient, weights
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.ranges import checked
from palimpsest.train import Batch, Recipe, fit
from palimpsest.unlearners import Base, Response, Step, unlearner

NEEDS = ("requests",)  # its base training logs updates for the requests that may come
REPLAYS = True  # and it can serve others, which cost a training each


@checked
def train_base(model: Network, data: Samples, at: Base) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return a copy of `model` trained on `data`, and the log of the requests that may come.

    The log holds, on the model's device, each request's indices into `data`, `request0/indices`. For each set of
    requests that some batch touched, and for each parameter, it holds the sum of such batches' updates,
    `touched/101/net.…`, float64; the digits of the set stand for the requests in order. `seed` is that of the training.
    """
    network, sums = deepcopy(model), dict[str, torch.Tensor]()
    _logged(network, data, at.recipe, at, at.requests, sums)
    requests = [indices.to(data.labels.device, copy=True) for indices in at.requests]
    log = {f"request{number}/indices": one for number, one in enumerate(requests)} | sums
    return network, log | {"seed": torch.tensor(at.seed, device=data.labels.device)}


@unlearner(replaces=True)
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    epochs: Annotated[int, "[0, inf)"] = 1,
    lr: Annotated[float, "[0, inf)"] = 1e-4,
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return `model` less the logged updates of the request, fine-tuned for `epochs` passes over what remains; and the
    log.

    The log is that of the other requests, for the training set as it is now. With 0 epochs nothing is fine-tuned. A
    first request that the log does not know is served by training once more, with the same draws, which logs it alone.
    Raises `ValueError` where the log is missing, where it does not know a later request, and where nothing is left to
    fine-tune on.
    """
    requests, number, sums = _taken_back(model, forget, retain, at)
    requests.pop(number)
    if at.replacement is None:
        stays = torch.ones(len(forget.labels) + len(retain.labels), dtype=torch.bool, device=retain.labels.device)
        stays[at.indices] = False
        place = stays.cumsum(0) - 1
        requests = [place[other[stays[other]]] for other in requests]
    left = at.remaining(retain)
    if epochs and not len(left.labels):
        raise ValueError("amnesiac: nothing is retained to fine-tune on; epochs=0 leaves the fine-tuning out")
    if epochs:
        recipe = replace(at.recipe, epochs=epochs, lr=lr, schedule="constant", warmup_epochs=0.0)
        _logged(model, left, recipe, at, requests, sums)
    return model, {f"request{number}/indices": one for number, one in enumerate(requests)} | sums


@checked
def response(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    epochs: Annotated[int, "[0, inf)"] = 1,
    lr: Annotated[float, "[0, inf)"] = 1e-4,
) -> Response:
    """A surrogate: the fine-tuning as one step of plain SGD at the weights theta_s after the subtraction.

    theta_u = theta_s - epochs * lr / B * (sum_remaining dl(z; theta_s) + weight decay), B the batch size or the number
    of samples, if that is less: what `epochs` passes of SGD do while theta moves little, and exactly what one pass in
    one batch does. Momentum, Adam, augmentation and the order of the batches are left out. `start` is where this leads
    with the samples as they were, so that only the difference that a replacement makes is left to the map. BatchNorm
    takes each batch's statistics, as in training.
    """
    slope = deepcopy(model)
    _taken_back(slope, forget, retain, at)
    slope = of_batches(slope) if len(forget.labels) > 1 else slope.eval()
    count, start = len(retain.labels) + len(forget.labels), weights(slope)
    rate = epochs * lr / min(at.recipe.batch_size, count)
    every = request_gradient(slope, retain, None) + request_gradient(slope, forget, None)
    start -= rate * (every + count * at.recipe.weight_decay * start)
    return Response(start, slope, lambda vector: rate * vector)


def _taken_back(
    model: nn.Module, forget: Samples, retain: Samples, at: Step
) -> tuple[list[torch.Tensor], int, dict[str, torch.Tensor]]:
    """Subtract the logged updates of the request from `model`, in place.

    Return the indices of all requests of the log, the number of this one among them, and the sums of the others.
    """
    if not at.kept:
        raise ValueError("amnesiac: the model has no log of its updates; train it with the train_base of amnesiac")
    if at.indices is None:
        raise ValueError("amnesiac: the samples are gone already, and the log does not hold a request for them")
    log, asked = dict(at.kept), at.indices.sort().values
    requests = [log[f"request{number}/indices"] for number in range(sum("/indices" in name for name in log))]
    which = [
        number for number, logged in enumerate(requests) if torch.equal(logged.sort().values, asked.to(logged.device))
    ]
    if not which:
        if "seed" not in log or at.initial is None:
            raise ValueError(
                f"amnesiac: the log does not hold the request for these {len(asked)} samples, and it is not the first; "
                "updates are logged during training, for the requests that train_base was told"
            )
        requests, which, log = [at.indices], [0], {}
        before = Base(int(at.kept["seed"]), at.recipe, at.task)
        _logged(at.initial(), replace(at, replacement=forget).remaining(retain), at.recipe, before, requests, log)
    number, parameters = which[0], dict(model.named_parameters())
    exact = {name: parameter.detach().double() for name, parameter in parameters.items()}
    sums: dict[str, torch.Tensor] = {}
    for key, logged in log.items():
        kind, _, rest = key.partition("/")
        touched, _, name = rest.partition("/")
        if kind == "touched" and touched[number] == "1":
            exact[name] -= logged
        elif kind == "touched":
            sums[f"touched/{touched[:number]}{touched[number + 1 :]}/{name}"] = logged.clone()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(exact[name])
    return requests, number, sums


def _logged(
    network: Network,
    samples: Samples,
    recipe: Recipe,
    at: Base | Step,
    requests: Sequence[torch.Tensor],
    sums: dict[str, torch.Tensor],
) -> None:
    """Train `network` in place, adding the updates to `sums`."""
    held = torch.zeros(len(requests), len(samples.labels), dtype=torch.bool, device=samples.labels.device)
    for number, indices in enumerate(requests):
        held[number, indices] = True

    def add(training: nn.Module, batch: Batch, factor: int) -> None:
        touched = "".join("01"[one] for one in held[:, batch.index].any(1).tolist())
        for name, parameter in training.named_parameters() if "1" in touched else ():
            key = f"touched/{touched}/{name}"
            if key not in sums:
                sums[key] = torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
            sums[key].add_(parameter.detach(), alpha=factor)

    # Weights after the step less weights before it: the update, without a copy of the weights in between.
    fit(
        network,
        samples,
        recipe,
        seed=at.seed,
        task=at.task,
        before_step=lambda training, batch: add(training, batch, -1),
        after_step=lambda training, batch: add(training, batch, 1),
        kept=sums,
        checkpoint=at.checkpoint,
    )
