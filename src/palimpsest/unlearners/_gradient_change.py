"""What Theorem 3.1 of the malicious-requests paper (KDD 2023) bounds, and its bound with the least constants.

With D the training data, D~ the same with z~ = x - delta in the place of P samples z, and a Newton step Delta,

    |dl(D~; theta_u) - dl(D; theta)| <= xi_1^2 xi_2 d^2 epsilon^2 P^2 |H^-1|^2

where xi_1 is a Lipschitz constant of z -> dl(z; theta), xi_2 one of theta -> d2 l(z~; theta), d the number of values
of a sample and epsilon the largest change of one. The paper computes neither side. Nobody knows xi_1 and xi_2 of a
network, but the step itself shows how large they are at least:

    xi_1 >= max_p |dl(z~_p; theta) - dl(z_p; theta)| / |delta_p|
    xi_2 >= 2 |dl(D~; theta_u) - dl(D~; theta) - H~ Delta| / |Delta|^2        by Taylor's theorem, H~ of D~

So the bound is at least the number given here. Our reading: l is the objective that the step minimises, summed over the
samples, with its weight decay, and so is H, damped as the step damps it. xi_2 is that of the sum, without which the
left side need not stay below the right one; for one sample it is smaller, by the number of samples at most. Gradients
are those of the weights that move, in float64. The assumption |x| <= 1 is not checked: most images in [0, 1] break it.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch

from palimpsest.curvature import gradient, hessian_product, per_sample_gradients, weights
from palimpsest.data import Samples, pixels, together
from palimpsest.models import Network


def told(
    before: Network,
    after: Network,
    forget: Samples,
    replacement: Samples,
    retain: Samples,
    moves: torch.Tensor,
    inverse: float,
    decay: float,
) -> dict[str, torch.Tensor]:
    """Return `told/gradient_change`, the left side, and `told/gradient_change_bound`, the least right side.

    moves: bool (P,), the weights that the step moved. inverse: |H^-1|. decay: the weight decay of one sample's loss.
    """
    old, new = (deepcopy(model).double().eval() for model in (before, after))
    asked, put = (Samples(pixels(part.images, torch.float64), part.labels) for part in (forget, replacement))
    change = put.images - asked.images
    lengths = change.flatten(1).norm(dim=1)
    away = torch.cat([*_differences(old, asked, put, moves)])
    first = float((away / lengths).nan_to_num(0.0).max())
    now, count = together(retain, replacement), len(retain.labels) + len(put.labels)
    step = (weights(new) - weights(old)) * moves
    at_start, at_end = gradient(old, now) * moves, gradient(new, now) * moves
    bent = count * hessian_product(old, now, step) * moves
    second = 2 * float((at_end - at_start - bent).norm() / step.norm().square().clamp(min=1e-300))
    left = at_end - gradient(old, together(retain, forget)) * moves + count * decay * step
    values, largest = change[0].numel(), float(change.abs().max())
    bound = first**2 * second * (values * largest * len(change) * inverse) ** 2
    return {"told/gradient_change": left.norm(), "told/gradient_change_bound": left.new_tensor(bound)}


def _differences(model: Network, one: Samples, other: Samples, moves: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield how far each sample's gradient moves from one set to the other, as blocks (B,)."""
    pairs = zip(per_sample_gradients(model, one), per_sample_gradients(model, other), strict=True)
    return ((b - a)[:, moves].norm(dim=1) for a, b in pairs)
