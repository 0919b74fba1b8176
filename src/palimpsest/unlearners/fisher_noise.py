"""Fisher noise: blur the weights that the retained data does not need (Golatkar et al., CVPR 2020; healing paper).

`form="noise"` is the healing paper's: "for deep learning models, the update simplifies to only noise injection", with a
diagonal F (its Section 5.1). We follow Mahadevan and Mathioudakis without their Newton step:

    theta <- theta + alpha (F + damping)^-exponent * b,   b ~ N(0, I),   F = diagonal of the empirical Fisher matrix

of the retained data, once for each mini-batch of `batch_forget` forgotten images, with F computed anew each time. These
sequential updates are what makes the paper's Table 2 collapse to one class, while 25 images are one update
(docs/methods.md 2.4). The paper's formula is lost; exponent 1/4 is Mahadevan's, 1/2 is the other reading. Values:
damping 1e-6, alpha 3.5e-3 for MNIST (Table 6; 3.5e-5 for CIFAR-10, 1e-3 for AFHQ); batch_forget is 1024, as for its
Influence. The noise never has a deviation above alpha * damping^-exponent. Tables 2 and 6 come from different values,
which the paper does not give for Table 2.

`form="kfac"` is the same with the other F that the paper names (its Section 5.1): a Kronecker product for each dense
layer (Martens and Grosse, ICML 2015) and for each convolution (Grosse and Martens, ICML 2016),

    F = A x G,  A = mean_n sum_t a a^T,  G = mean_n (1 / T) sum_t g g^T,   (F + damping)^-exponent by both eigenbases,

with a (its inputs, a 1 for the bias) and g (the slopes of the loss in its outputs) at each of T places of an image, one
in a dense layer. What other layers have, such as BatchNorm's scales, keeps its diagonal.

`form="class_conditional"` is what SalUn's repository has as fisher_new (fisher.py), from batches of 32:

    F = mean over batches of sum_y mean(p_y) (d mean CE(y) / d theta)^2,  theta ~ N(theta, alpha min(1 / (F + 1e-8), c))

with c = 1e3, in the last layer 1e2. The variance is averaged over each tensor's second dimension (the inputs of a
unit), then made 10-fold in the last layer and in every vector (biases, BatchNorm). Where a class is forgotten whole,
its row of the last layer is drawn from N(0, 1e-3). The square of a batch's mean is not the mean square, so F there
falls with the batch size. That code uses alpha 1e-9 to 1e-6; 1e-9 is the default of this form, and it must be tuned.
The released code finds the last layer by a first dimension equal to the number of classes; here it is the last module
with parameters.

BatchNorm is in evaluation mode: running statistics stay, scale and shift are blurred like any parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.curvature import batches, fisher_diagonal, flat, move, pixels, weights
from palimpsest.data import Samples
from palimpsest.models import Network, evaluated, finite
from palimpsest.unlearners import Step, unlearner

TASKS = ("classification",)
NO_EPOCHS = True  # the plan counts its passes over the data, not a training's

RELEASED_BATCH = 32


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    form: Literal["noise", "kfac", "class_conditional"] = "noise",
    alpha: Annotated[float, "[0, inf)"] | None = None,
    damping: Annotated[float, "(0, inf)"] = 1e-6,
    exponent: Annotated[float, "[0, inf)"] = 0.25,
    batch_forget: Annotated[int, "[1, inf)"] = 1024,
    fisher_samples: Annotated[int, "[1, inf)"] | None = None,
    memory: Annotated[int, "[1, inf)"] = 2**29,
) -> Network:
    """Return `model` with noise on its weights.

    alpha: None takes the form's default, 3.5e-3, for `class_conditional` 1e-9. damping, exponent, batch_forget: not for
    `class_conditional`. fisher_samples: how many retained images, drawn with the seed, F is computed from; None takes
    all. memory: how many bytes a block of per-sample gradients may take. Raises `ValueError` when nothing is retained,
    and with `kfac` for a convolution in groups or with a padding of another kind than zeros.
    """
    generator = torch.Generator().manual_seed(at.seed)
    seen = retain
    if fisher_samples is not None:
        draw = torch.randperm(len(retain.labels), generator=generator)[:fisher_samples].to(retain.labels.device)
        seen = Samples(retain.images[draw], retain.labels[draw])
    if form != "class_conditional":
        for _ in forget.labels.split(batch_forget):
            start = weights(model)
            noise = torch.randn(start.shape, generator=generator).to(start)
            blocks = kronecker(model, seen) if form == "kfac" else {}
            step = by_layers(model, blocks, noise, damping, exponent)
            if (rest := step.isnan()).any():
                step[rest] = ((fisher_diagonal(model, seen, memory=memory) + damping) ** -exponent * noise)[rest]
            move(model, (3.5e-3 if alpha is None else alpha) * step)
    else:
        gone = forget.labels.unique()
        gone = gone[~torch.isin(gone, retain.labels)]
        blur(model, seen, 1e-9 if alpha is None else alpha, gone, generator)
    return model


def by_layers(
    model: nn.Module,
    blocks: Mapping[nn.Linear | nn.Conv2d, tuple[torch.Tensor, torch.Tensor]],
    noise: torch.Tensor,
    damping: float,
    exponent: float,
) -> torch.Tensor:
    """Return (F + damping)^-exponent noise (P,), F being A x G for each layer of `blocks`; nan elsewhere."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    starts = {id(one): sum(sizes[:place]) for place, one in enumerate(model.parameters())}
    found = torch.full_like(noise, torch.nan)
    for layer, (inputs, slopes) in blocks.items():
        own = [one for one in (layer.weight, layer.bias) if one is not None]
        places = [slice(starts[id(one)], starts[id(one)] + one.numel()) for one in own]
        drawn = torch.cat([noise[place].view(len(slopes), -1) for place in places], 1).double()
        (of_inputs, left), (of_slopes, right) = (
            torch.linalg.eigh(finite(factor, "a factor of KFAC")) for factor in (inputs, slopes)
        )
        known = of_slopes.clamp(min=0)[:, None] * of_inputs.clamp(min=0) + damping
        moved = (right @ ((right.T @ drawn @ left) * known**-exponent) @ left.T).to(found)
        weight, *bias = moved.split([moved.shape[1] - len(own) + 1, *[1] * (len(own) - 1)], 1)
        for place, part in zip(places, (weight, *bias), strict=True):
            found[place] = part.flatten()
    return found


def kronecker(model: nn.Module, samples: Samples) -> dict[nn.Linear | nn.Conv2d, tuple[torch.Tensor, torch.Tensor]]:
    """Return A (I, I) and G (O, O), `float64`, of each dense layer and convolution that `samples` pass."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    found: dict[nn.Linear | nn.Conv2d, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        # What goes on is a copy, which a function that works in place may overwrite.
        seen[layer] = (given[0].detach().clone(), output)
        return output.clone()

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with evaluated(model), torch.enable_grad():
            for images, labels in batches(samples):
                loss = F.cross_entropy(model(pixels(images, next(model.parameters()).dtype)), labels, reduction="sum")
                used = [layer for layer in layers if layer in seen]
                slopes = torch.autograd.grad(loss, [seen[layer][1] for layer in used])
                for layer, slope in zip(used, slopes, strict=True):
                    made = _of_batch(layer, seen[layer][0], slope)
                    found[layer] = tuple(map(torch.add, found[layer], made)) if layer in found else made  # type: ignore[assignment]
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: (a / len(samples.labels), g / len(samples.labels)) for layer, (a, g) in found.items()}


def _of_batch(
    layer: nn.Linear | nn.Conv2d, given: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums over a batch of what A and G are means of."""
    if isinstance(layer, nn.Conv2d):
        if layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(
                "fisher_noise: kfac knows no convolution in groups, nor a padding that is no number of zeros"
            )
        patches = F.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        given, slope = patches.mT, slope.flatten(2).mT
    rows, of_rows = (one.reshape(len(one), -1, one.shape[-1]).double() for one in (given, slope))
    if layer.bias is not None:
        rows = F.pad(rows, (0, 1), value=1.0)
    places = rows.shape[1]
    rows, of_rows = rows.flatten(0, 1), of_rows.flatten(0, 1)
    return rows.T @ rows, of_rows.T @ of_rows / places


def class_information(model: Network, samples: Samples) -> list[torch.Tensor]:
    """Return F of the class-conditional form, a tensor for each parameter."""
    parameters = list(model.parameters())
    found = [torch.zeros_like(parameter) for parameter in parameters]
    batches = samples.images.split(RELEASED_BATCH)
    for images in batches:
        with evaluated(model):
            logits = model(pixels(images, parameters[0].dtype))
        shares = logits.detach().softmax(1).mean(0)
        losses = -logits.log_softmax(1).mean(0)  # the batch's mean cross entropy to each class
        for share, loss in zip(shares, losses, strict=True):
            for total, part in zip(found, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
                total += share * part.square()
    return [total / len(batches) for total in found]


def variances(
    model: nn.Module, information: list[torch.Tensor], alpha: float, gone: torch.Tensor
) -> list[torch.Tensor]:
    """Return each parameter's variance in the class-conditional form; `gone` are the classes forgotten whole."""
    head = last_layer(model)
    found = []
    for parameter, known in zip(model.parameters(), information, strict=True):
        in_head = any(parameter is other for other in head)
        variance = alpha * (1 / (known + 1e-8)).clamp(max=1e2 if in_head else 1e3)
        if variance.ndim > 1:
            variance = variance.mean(1, keepdim=True).expand_as(parameter).clone()
        if in_head:
            variance[gone] = 1e-4
        found.append(variance * 10 if in_head or variance.ndim == 1 else variance)
    return found


def blur(model: Network, samples: Samples, alpha: float, gone: torch.Tensor, generator: torch.Generator) -> None:
    """Draw theta ~ N(theta, variance) of the class-conditional form, in place."""
    if not len(samples.labels):
        raise ValueError("fisher_noise: F is taken from retained samples, and there are none")
    variance = flat(variances(model, class_information(model, samples), alpha, gone))
    with torch.no_grad():
        for parameter in last_layer(model):
            parameter[gone] = 0
    move(model, variance.sqrt() * torch.randn(variance.shape, generator=generator).to(variance))


def last_layer(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the last module that has any: the classes' weights and biases."""
    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    return list(owners[-1].parameters(recurse=False))
