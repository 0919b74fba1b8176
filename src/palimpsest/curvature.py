"""Gradients and curvature of the cross entropy as flat vectors: per sample, and times a vector, never as a matrix.

A vector (P,) holds every parameter in the order of `model.parameters()`, each flattened row by row; so do gradients,
steps and the vectors that a Hessian is multiplied with. The loss of one sample is l(z; theta), its cross entropy;
a Hessian or a Fisher matrix here is the mean over the samples given.

    H = 1/n sum_z d2 l(z),   empirical F = 1/n sum_z g g^T,  g = d l(z; y of the data),
    true F = 1/n sum_z E_{y ~ softmax} g g^T  (the Gauss-Newton matrix of the cross entropy, never indefinite)

Hessian times vector is forward-over-reverse differentiation (Pearlmutter, Neural Computation 1994); the Fisher
products are a Jacobian-vector and a vector-Jacobian product; H^-1 v is LiSSA (Agarwal et al., JMLR 2017) in the form
of Warnecke et al.'s code (docs/methods.md 2.4), or conjugate gradients.

BatchNorm: everything here is computed in evaluation mode, but for `request_gradient`, which takes the network as it is.
A batch's statistics would tie its samples together, and there would be no gradient of one sample. Running statistics
are constants; scale and shift are parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from palimpsest.data import Samples, pixels
from palimpsest.models import Diverged, ModelError, Network, evaluated

log = logging.getLogger(__name__)

Named = dict[str, torch.Tensor]
M = TypeVar("M", bound=nn.Module)


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors as one vector, row by row whatever their memory format."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def weights(model: nn.Module) -> torch.Tensor:
    """A copy of the parameters (P,), without their graph."""
    return flat([parameter.detach() for parameter in model.parameters()])


@torch.no_grad()
def place(model: M, vector: torch.Tensor) -> M:
    """Return `model` with the parameters `vector` (P,), in place. Raises `Diverged` where they are not finite."""
    if not torch.isfinite(vector).all():
        raise Diverged("the update of the weights is not finite; more damping or a larger scale mends it")
    for parameter, part in zip(model.parameters(), vector.split(_sizes(model)), strict=True):
        parameter.copy_(part.view(parameter.shape))
    return model


def move(model: nn.Module, step: torch.Tensor) -> None:
    """theta <- theta + step (P,), in place. Raises `Diverged` where the step is not finite."""
    place(model, weights(model) + step)


def heads(model: nn.Module) -> list[nn.Linear]:
    """Return a network's last dense layer, of an ensemble each member's; `ValueError` where one has none."""
    parts = getattr(getattr(model, "net", model), "members", [model])
    found = [layer for part in parts for layer in [m for m in part.modules() if isinstance(m, nn.Linear)][-1:]]
    if len(found) < len(parts):
        raise ValueError("this network has no dense layer")
    return found


def moving(model: nn.Module, layers: Literal["all", "head"]) -> torch.Tensor:
    """Return which entries of a flat vector belong to these layers, bool (P,): to all, or to the `heads`."""
    within = set(model.parameters()) if layers == "all" else {one for head in heads(model) for one in head.parameters()}
    return flat([torch.full_like(one, one in within, dtype=torch.bool) for one in model.parameters()])


def of_batches(model: M) -> M:
    """Return `model` in evaluation mode but for BatchNorm, which takes the statistics of each batch, as in training.

    Its running statistics stay as they are, whatever the network is shown from now on.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.track_running_stats = False
    return model


def gradient(model: nn.Module, samples: Samples, *, batch_size: int = 512) -> torch.Tensor:
    """Return the sum of the samples' gradients (P,), not their mean. samples: images `uint8` or float in [0, 1]."""
    with evaluated(model):
        return _gradient(model, samples, batch_size)


def request_gradient(
    model: nn.Module, forget: Samples, replacement: Samples | None, *, batch_size: int = 512
) -> torch.Tensor:
    """Return what a request takes from the sum of gradients (P,): the forget set's, less its replacement's if it has
    one; in the mode in which `model` is.

    Where BatchNorm takes each batch's statistics, its batches are those of `batches`.
    """
    taken = _gradient(model, forget, batch_size)
    return taken if replacement is None else taken - _gradient(model, replacement, batch_size)


def batches(samples: Samples, batch_size: int = 512) -> Iterator[Samples]:
    """Yield the samples in order, in batches of up to `batch_size` that differ by one at most: of two samples or more,
    none is alone.
    """
    if count := math.ceil(len(samples.labels) / batch_size):
        yield from map(Samples, *(part.tensor_split(count) for part in samples))


def _gradient(model: nn.Module, samples: Samples, batch_size: int) -> torch.Tensor:
    total, parameters = torch.zeros_like(weights(model)), list(model.parameters())
    for images, labels in batches(samples, batch_size):
        loss = F.cross_entropy(model(pixels(images, total.dtype)), labels, reduction="sum")
        # A frozen or unused parameter has no gradient, and takes no step.
        total += flat(torch.autograd.grad(loss, parameters, materialize_grads=True))
    return total


def per_sample_gradients(model: nn.Module, samples: Samples, *, memory: int = 2**29) -> Iterator[torch.Tensor]:
    """Yield each sample's gradient, in order, as blocks (B, P).

    memory: how many bytes a block may take while it is made, besides the model and what the caller keeps of the block:
    the gradients, a copy of them as one matrix and the activations. B follows from it (`micro_batch`).
    """
    with evaluated(model):
        held = _detached(model)
        loss = _loss_of_one(model)
        some = next(iter(held.values()))
        of_each = vmap(grad(loss), in_dims=(None, 0, 0))
        for images, labels in _batches(samples, micro_batch(model, samples, memory)):
            found = of_each(held, pixels(images, some.dtype), labels)
            yield torch.cat([part.reshape(len(labels), -1) for part in found.values()], 1)


def last_layer_gradients(
    model: Network, samples: Samples, *, batch_size: int = 500
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Yield each sample's gradient over the last dense layer, in order and by batches, as the factors of its matrix.

    The gradient is slope (x) input: slopes (B, K), the loss's over the layer's outputs, and inputs (B, D + 1), what
    enters it with a one for its bias, if it has one; `float64`. A network has one such pair, an ensemble one for each
    member. Raises `ModelError` where there is no dense layer.
    """
    try:
        layers = heads(model)
    except ValueError as error:
        raise ModelError(f"{model.spec.method}: {error}, so no gradient is that of its last") from error
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def cut(head: nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        seen.append((given[0], output.detach().requires_grad_()))
        return seen[-1][1]

    held = _detached(model)  # so that no graph lies below
    hooks = [head.register_forward_hook(cut) for head in layers]
    try:
        with evaluated(model), torch.enable_grad():
            for images, labels in _batches(samples, batch_size):
                seen.clear()
                # In float64 a sample that the model is sure of keeps its small slope.
                outputs = functional_call(model, held, (pixels(images, model.mean.dtype),)).double()
                loss = F.cross_entropy(outputs, labels, reduction="sum")
                slopes = torch.autograd.grad(loss, [output for _, output in seen])
                yield [
                    (slope.double(), F.pad(given.double(), (0, int(head.bias is not None)), value=1.0))
                    for head, slope, (given, _) in zip(layers, slopes, seen, strict=True)
                ]
    finally:
        for hook in hooks:
            hook.remove()


def gram(
    model: Network, samples: Samples, of: Literal["last_layer", "logit", "full"], *, memory: int = 2**29
) -> torch.Tensor:
    """Return the inner products of all pairs of the samples' gradients, `float64` (N, N).

    of: over the parameters of the last dense layer, where <g_i, g_j> is a product of two inner products and no gradient
    is written out; over the logits, softmax minus one-hot; or over all parameters. memory: how many bytes the
    gradients over all parameters may take at once; what does not fit is computed in turns, each with a pass over the
    samples.
    """
    count = len(samples.labels)
    found = torch.zeros(count, count, dtype=torch.float64, device=samples.labels.device)
    if of == "full":
        total = len(weights(model))
        width = max(1, memory // (8 * max(1, count)))
        for start in range(0, total, width):
            blocks = per_sample_gradients(model, samples, memory=memory)
            part = torch.cat([block[:, start : start + width].double() for block in blocks])
            found += part @ part.T
    elif of == "logit":
        with torch.no_grad(), evaluated(model):
            outputs = [model(pixels(images, model.mean.dtype)) for images, _ in _batches(samples, 500)]
        slopes = torch.cat(outputs).double().softmax(1) - F.one_hot(samples.labels, outputs[0].shape[1])
        found += slopes @ slopes.T
    else:
        for factors in zip(*last_layer_gradients(model, samples), strict=True):
            slopes, inputs = (torch.cat(one) for one in zip(*factors, strict=True))
            found += (slopes @ slopes.T) * (inputs @ inputs.T)
    return found


def slopes(model: nn.Module, samples: Samples, vector: torch.Tensor, *, batch_size: int = 512) -> torch.Tensor:
    """Each sample's gradient times `vector` (N,): how fast its loss rises along it. No gradient is computed."""
    found = []
    with evaluated(model):
        held, direction = _along(model, vector)
        for images, labels in _batches(samples, batch_size):

            def losses(given: Named, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                return F.cross_entropy(functional_call(model, given, (images,)), labels, reduction="none")

            of_batch = partial(losses, images=pixels(images, vector.dtype), labels=labels)
            found.append(jvp(of_batch, (held,), (direction,))[1])
    return torch.cat(found)


def fisher_diagonal(model: nn.Module, samples: Samples, *, memory: int = 2**29) -> torch.Tensor:
    """The diagonal (P,) of the empirical Fisher matrix: the mean of the squared gradients of `samples`."""
    if not len(samples.labels):
        raise ValueError("a Fisher matrix is a mean over samples, and there are none: nothing is retained")
    total = torch.zeros_like(weights(model))
    for block in per_sample_gradients(model, samples, memory=memory):
        total += block.square_().sum(0)
    return total / len(samples.labels)


def micro_batch(model: nn.Module, samples: Samples, memory: int) -> int:
    """Return how many per-sample gradients fit into `memory` bytes, at least 1.

    A sample costs three vectors (P,): its gradients, the same as a row of the block, and the room in which a
    convolution sums them. It also costs four times the activations that one forward pass keeps: their gradients are as
    large, and convolutions reorder both in copies (measured: 2.8 times on a network of little else).
    """
    like = weights(model)
    kept: dict[int, int] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in [*model.parameters(), *model.buffers()]}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with evaluated(model), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(
            pixels(samples.images[:1], like.dtype)
        )  # kept alive, so that no storage is counted under two names
        F.cross_entropy(output, samples.labels[:1])
    each = 3 * like.numel() * like.element_size() + 4 * sum(kept.values())
    return max(1, memory // each)


def hessian_product(model: nn.Module, samples: Samples, vector: torch.Tensor, *, batch_size: int = 512) -> torch.Tensor:
    """H v (P,), H the Hessian of the mean cross entropy over `samples`; `batch_size` samples at once."""

    def product(held: Named, direction: Named, images: torch.Tensor, labels: torch.Tensor) -> Named:
        def loss(given: Named) -> torch.Tensor:
            return F.cross_entropy(functional_call(model, given, (images,)), labels, reduction="sum")

        return jvp(grad(loss), (held,), (direction,))[1]

    return _mean_product(model, samples, vector, batch_size, product)


def head_hessian(model: nn.Module, samples: Samples, *, batch_size: int = 512) -> torch.Tensor:
    """H (Q, Q), `float64`, of the mean cross entropy over the weights and bias of the last dense layer alone.

    With its inputs h (a 1 appended for the bias) and p = softmax it is the mean of (diag p - p p^T) x h h^T: exact, and
    never indefinite. Q = classes * (inputs + 1). Raises `ValueError` where the layer's outputs are not the network's.
    """
    (head,) = heads(model)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = head.register_forward_hook(lambda layer, given, output: seen.append((given[0], output)))
    count, inputs = head.out_features, head.in_features + (head.bias is not None)
    total = head.weight.new_zeros(count, inputs, count, inputs, dtype=torch.float64)
    try:
        with evaluated(model), torch.no_grad():
            for images, _ in batches(samples, batch_size):
                seen.clear()
                if not torch.equal(model(pixels(images, head.weight.dtype)), seen[0][1]):
                    raise ValueError("the last dense layer's outputs are not the network's, so its Hessian is another")
                given, share = seen[0][0].double(), seen[0][1].double().softmax(1)
                given = F.pad(given, (0, inputs - head.in_features), value=1.0)
                weighed = (share[:, :, None] * given[:, None]).flatten(1)
                total -= (weighed.T @ weighed).view(total.shape)
                for k in range(count):
                    total[k, :, k] += weighed[:, k * inputs : (k + 1) * inputs].T @ given
    finally:
        hook.remove()
    place = torch.arange(count * inputs, device=total.device).view(count, inputs)
    order = torch.cat([place[:, : head.in_features].flatten(), place[:, head.in_features :].flatten()])
    return total.view(len(order), -1)[order][:, order] / len(samples.labels)


def fisher_product(
    model: nn.Module,
    samples: Samples,
    vector: torch.Tensor,
    *,
    labels: Literal["data", "model"] = "data",
    batch_size: int = 512,
) -> torch.Tensor:
    """F v (P,), F the Fisher matrix averaged over `samples`.

    labels: `data` is the empirical Fisher matrix, with the labels given; `model` the true one, whose labels are drawn
    from the softmax (in expectation, without drawing).
    """

    def product(held: Named, direction: Named, images: torch.Tensor, truth: torch.Tensor) -> Named:
        def logits(given: Named) -> torch.Tensor:
            return functional_call(model, given, (images,))

        def losses(given: Named) -> torch.Tensor:
            return F.cross_entropy(logits(given), truth, reduction="none")

        if labels == "data":
            slopes = jvp(losses, (held,), (direction,))[1]
            return vjp(losses, held)[1](slopes)[0]
        output, change = jvp(logits, (held,), (direction,))[:2]
        share = output.softmax(1)
        # (diag p - p p^T) u, the covariance of the one-hot label under the softmax
        return vjp(logits, held)[1](share * (change - (share * change).sum(1, keepdim=True)))[0]

    return _mean_product(model, samples, vector, batch_size, product)


def lissa(
    product: Callable[[torch.Tensor, int], torch.Tensor],
    vector: torch.Tensor,
    *,
    damping: float,
    scale: float,
    depth: int,
    patience: int | None = None,
) -> torch.Tensor:
    """Return H^-1 v (P,) by `depth` steps of u <- v + (1 - damping) u - H u / scale from u = v; the result is u /
    scale.

    product: (u, step) to H u, of all samples or of some drawn for that step. The fixed point is (H + damping * scale *
    I)^-1 v; it is reached where the eigenvalues of H lie in (-damping * scale, (2 - damping) * scale). patience: stop
    when |change of u|_1 has not been less than before for so many steps; None never stops early. Raises `Diverged` when
    u is no longer finite.
    """
    u, least, waited = vector, math.inf, 0
    change = math.inf
    for step in range(depth):
        following = vector + (1 - damping) * u - product(u, step) / scale
        change = float((following - u).abs().sum())
        u = following
        if not math.isfinite(change):
            raise Diverged(
                f"LiSSA left the numbers at step {step + 1} of {depth}; more damping or a larger scale mends it"
            )
        if change < least:
            least, waited = change, 0
        else:
            waited += 1
            if patience is not None and waited >= patience:
                break
    log.info("LiSSA: %d steps, last change %.3g, least %.3g", step + 1 if depth else 0, change, least)
    return u / scale


def conjugate_gradients(
    product: Callable[[torch.Tensor], torch.Tensor],
    vector: torch.Tensor,
    *,
    damping: float,
    steps: int,
    tolerance: float,
) -> torch.Tensor:
    """Return (A + damping I)^-1 v (P,) for a matrix A without negative eigenvalues (Hestenes and Stiefel, 1952).

    product: u to A u, the same at every step. steps: how many at most; fewer where the residual becomes as short as
    `tolerance` times `vector`. Raises `Diverged` where a number is not finite and where A + damping I is not positive.
    """
    solved, residual, direction = torch.zeros_like(vector), vector, vector
    length = residual @ residual
    enough, taken = tolerance**2 * length, 0
    while taken < steps and not length <= enough:  # so that a length that is no number does not end it
        bent = product(direction) + damping * direction
        bend = direction @ bent
        if bend <= 0:
            raise Diverged("the curvature is negative along a step of conjugate gradients; more damping mends it")
        along = length / bend
        solved, residual = solved + along * direction, residual - along * bent
        before, length = length, residual @ residual
        direction = residual + length / before * direction
        taken += 1
    if not solved.isfinite().all():
        raise Diverged("the result of conjugate gradients is not finite; more damping may mend it")
    log.info("conjugate gradients: %d steps, residual %.3g of %.3g", taken, float(length.sqrt()), float(vector.norm()))
    return solved


def extremes(
    product: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor, *, steps: int, seed: int
) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue of a symmetric matrix, from within, by Lanczos' method.

    product: u to A u. like: a vector (P,) of which type u is; where it is 0, u stays 0. Raises `Diverged` where a
    number is not finite.
    """
    draw = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like) * (like != 0)
    before, now, length = torch.zeros_like(like), draw / draw.norm(), 0.0
    diagonal, beside = [], []
    for _ in range(steps):
        bent = product(now) - length * before
        diagonal.append(float(bent @ now))
        bent = bent - diagonal[-1] * now
        length = float(bent.norm())
        if not math.isfinite(length):
            raise Diverged("the curvature is not finite")
        beside.append(length)
        if length <= 1e-6 * max(map(abs, diagonal)):  # no direction is left
            break
        before, now = now, bent / length
    ritz = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    ritz += sum(torch.diag(torch.tensor(beside[:-1], dtype=torch.float64), side) for side in (-1, 1))
    values = torch.linalg.eigvalsh(ritz)
    return float(values[0]), float(values[-1])


def _mean_product(
    model: nn.Module,
    samples: Samples,
    vector: torch.Tensor,
    batch_size: int,
    product: Callable[[Named, Named, torch.Tensor, torch.Tensor], Named],
) -> torch.Tensor:
    """The mean over `samples` of a matrix times `vector`, from products that sum over a batch."""
    if not len(samples.labels):
        raise ValueError("curvature is a mean over samples, and there are none: nothing is retained")
    total = torch.zeros_like(vector)
    with evaluated(model):
        held, direction = _along(model, vector)
        for images, labels in _batches(samples, batch_size):
            total += flat(list(product(held, direction, pixels(images, vector.dtype), labels).values()))
    return total / len(samples.labels)


def _along(model: nn.Module, vector: torch.Tensor) -> tuple[Named, Named]:
    """The parameters, and `vector` (P,) in their shapes, both by name."""
    held = _detached(model)
    parts = zip(held, vector.split(_sizes(model)), strict=True)
    return held, {name: part.view(held[name].shape) for name, part in parts}


def _loss_of_one(model: nn.Module) -> Callable[[Named, torch.Tensor, torch.Tensor], torch.Tensor]:
    def loss(held: Named, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, held, (image[None],)), label[None])

    return loss


def _batches(samples: Samples, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from zip(samples.images.split(batch_size), samples.labels.split(batch_size), strict=True)


def _detached(model: nn.Module) -> Named:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _sizes(model: nn.Module) -> list[int]:
    return [parameter.numel() for parameter in model.parameters()]
