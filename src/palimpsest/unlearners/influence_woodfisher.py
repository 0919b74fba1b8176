"""IU: one step along the inverse Fisher matrix times a difference of gradients (Izzo et al., AISTATS 2021).

    theta_u = theta + alpha * W(v),   v = 1/n sum_forget dl - n_f / (n n_r) sum_retain dl,   n = n_f + n_r

in evaluation mode. W(v) is meant as F^-1 v by the recursion of WoodFisher (Singh and Alistarh, NeurIPS 2020). With N
samples of gradients g_i and F_0 = damping * I that is

    F_i^-1 = F_{i-1}^-1 - o_i o_i^T / (N + g_i.o_i),   o_i = F_{i-1}^-1 g_i,   so that   F_N = F_0 + 1/N sum g_i g_i^T

`variant="woodfisher"` computes F_N^-1 v from `samples` retained images drawn with the seed, by the Woodbury identity
with the Gram matrix K of their gradients G: W(v) = (v - G^T (N damping I + K)^-1 G v) / damping. Gradients are computed
again, block by block, so memory is twice `memory` bytes and 16 N^2 more, whatever the network's size.

`variant="as_released"` is what the public code computes (SalUn and Unlearn-Sparse, Wfisher.py; copied by RUM,
deepunlearn and torchunlearn; docs/methods.md 2.3), with N = 1000 and the first N + 2 retained images in order:

    o = g_1, k = v;   for each next g:   k <- k - (k.g)/(N + o.g) o;   o <- o - (o.g)/(N + o.g) o

The recursion above needs o = F_{i-1}^-1 g. Here o is only ever rescaled, so k - v is a multiple of g_1 and no inverse
is approximated. Where gradients are short against sqrt(N), that code takes one step of length alpha along v. Since o
and k - v are one number each, they are computed here from the products g_1.g_i and v.g_i.

alpha 0.2 is the code's default; the SalUn paper's range 1 to 20 fails for its users (issue 7), so it must be tuned.
damping 1.0 is where the released recursion starts from (k = v). With it F_N is rarely far from I on a trained network,
whose gradients are small, so it must be tuned together with alpha.

BatchNorm is in evaluation mode throughout: running statistics stay, scale and shift move like any parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch

from palimpsest.curvature import gradient, move, per_sample_gradients
from palimpsest.data import Samples
from palimpsest.models import Network
from palimpsest.unlearners import Step, unlearner

TASKS = ("classification",)
NO_EPOCHS = True  # the plan counts its passes over the data, not a training's


@unlearner
def unlearn(
    model: Network,
    forget: Samples,
    retain: Samples,
    at: Step,
    *,
    alpha: Annotated[float, "[0, inf)"] = 0.2,
    variant: Literal["as_released", "woodfisher"] = "as_released",
    samples: Annotated[int, "[1, inf)"] = 1000,
    damping: Annotated[float, "(0, inf)"] = 1.0,
    memory: Annotated[int, "[1, inf)"] = 2**29,
) -> Network:
    """Return `model` after one step.

    samples: N in the module's formulas; `woodfisher` takes fewer where `retain` has fewer. damping: for `woodfisher`,
    above 0; along directions that no sampled gradient has, its step is v / damping. memory: how many bytes one block of
    gradients may take; `woodfisher` holds two blocks. Raises `Diverged` when the step is not finite.
    """
    v = difference(model, forget, retain)
    if variant == "as_released":
        first = Samples(*(tensor[: samples + 2] for tensor in retain))
        step = released(v, per_sample_gradients(model, first, memory=memory), samples)
    else:
        draw = torch.randperm(len(retain.labels), generator=torch.Generator().manual_seed(at.seed))
        chosen = draw[:samples].to(retain.labels.device)
        drawn = Samples(*(tensor[chosen] for tensor in retain))

        def gradients(position: int) -> Iterable[torch.Tensor]:
            return per_sample_gradients(model, Samples(*(tensor[position:] for tensor in drawn)), memory=memory)

        step = woodbury(v, gradients, len(drawn.labels), damping)
    move(model, alpha * step)
    return model


def difference(model: Network, forget: Samples, retain: Samples) -> torch.Tensor:
    """Return v (P,): the forget set's gradient less that of as many retained samples, divided by n."""
    lost, kept = len(forget.labels), len(retain.labels)
    v = gradient(model, forget) / (lost + kept)
    return v - lost / (lost + kept) * gradient(model, retain) / kept if kept else v


def released(v: torch.Tensor, blocks: Iterable[torch.Tensor], samples: int) -> torch.Tensor:
    """k (P,) of the public code: `blocks` (B, P) are the gradients, the first of which is g_1; N = `samples`.

    o = size * g_1 and k = v + along * g_1, so each step needs g_1.g and v.g only.
    """
    first: torch.Tensor | None = None
    size, along = 1.0, 0.0
    for block in blocks:
        if first is None:
            first, block = block[0].clone(), block[1:]
        for with_first, with_v in (block @ torch.stack([first, v], 1)).double().tolist():
            product = size * with_first
            along -= (with_v + along * with_first) / (samples + product) * size
            size -= product / (samples + product) * size
    return v if first is None else v + along * first


def woodbury(
    v: torch.Tensor, blocks: Callable[[int], Iterable[torch.Tensor]], samples: int, damping: float
) -> torch.Tensor:
    """(damping I + 1/samples sum g g^T)^-1 v (P,), without a matrix (P, P).

    blocks: from a position in the sample, the gradients from there on as blocks (B, P); it is asked again and again, so
    that two blocks at most are in memory.
    """
    gram = torch.zeros(samples, samples, dtype=torch.float64, device=v.device)
    slopes = torch.zeros(samples, dtype=torch.float64, device=v.device)
    row = 0
    while row < samples:
        column, held = row, None
        for block in blocks(row):
            held = block if held is None else held
            part = (held @ block.T).double()
            gram[row : row + len(held), column : column + len(block)] = part
            gram[column : column + len(block), row : row + len(held)] = part.T
            column += len(block)
        assert held is not None
        slopes[row : row + len(held)] = (held @ v).double()
        row += len(held)
    gram.diagonal().add_(samples * damping)
    shares = torch.linalg.solve(gram, slopes).to(v.dtype)
    explained, row = torch.zeros_like(v), 0
    for block in blocks(0) if samples else ():
        explained += shares[row : row + len(block)] @ block
        row += len(block)
    return (v - explained) / damping
