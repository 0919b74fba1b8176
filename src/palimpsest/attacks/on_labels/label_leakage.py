"""Label leakage by parameters: heads trained on a server's frozen features, judged by dot products and by differences.

The label-leakage paper trains, on many small data sets D_i, models of the server's architecture whose feature
extraction f is frozen at the server's, and "only train[s] the final classification layers" (Section IV-A1):

    w_i = argmin_w E_{x in D_i} CE(w f(x), y),   compared with the server's own w (dot product or difference)

All three parameter attacks of the paper start from such heads (Sections IV-A1 to IV-B1), so they are trained once. The
dot product with Youden's threshold or k-means (`_dot`) and the difference with a decision tree (`_difference`) judge
the same heads.

The features of every image are computed once, and all heads are trained as one batch: weights (H, K, D), one batched
product a step, one Adam over the stack. Adam treats each number alone and each head has its own mean loss, so every
head comes out as if it were trained by itself. Its images, its initial values and its order have seeds of their own.

The paper's text lacks the number of heads, the subsets' size, the optimiser and the epochs (docs/methods.md#l-1). We
decided: 20 heads a class, 100 images each, Adam 1e-3, 20 epochs in batches of 10. With a whole subset a step there
would be 20 steps, in which Adam moves no weight further than 0.02, less than PyTorch's initialisation scatters them.
The paper trains on subsets of "retained" and of "forgotten" data, which an attacker cannot tell apart yet. So for the
attack every class gets as many heads, and each head sees one class, as in the theory (eq. 10-17). The printed numbers
most likely are of no attack: they count single heads, as many of forgotten as of kept classes, by the truth that the
cut was chosen with (docs/methods.md#l-7). For this reading, *per head*, there are `per_side` heads of either kind,
those of the attack among them. The other reading, *per class*, sees the attack's heads alone. The extractor is the
*unlearned* server's: the symbols are lost, and the attacker has no other. "The fully connected layer" is the last one
(docs/methods.md#l-13); LeNet's other two stay frozen.

Youden's threshold and the tree are learnt on shadow servers, one for each class, which the attacker retrained; the
ending `_own` means shadows by the target's own unlearner (docs/methods.md#l-3). As the paper has them, neither
carries over well from one server to another: products grow with a server's norm, and hidden units of two trainings do
not correspond. `youden_standardised` and `tree_sorted` are our corrections of this. Two endings name bounds, which are
no attacks since the truth has a part in them: with `_left_out` no shadow forgot any of the target's classes, which is
the lower one; `_oracle` learns from the target's own truth, which is the upper one.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from torch.nn import functional as F

from palimpsest.attacks.on_labels import Found, Judgement, Judging, OnLabels, _difference, _dot, _heads
from palimpsest.attacks.on_labels._heads import Heads, Judged, Known
from palimpsest.models import Network, finite
from palimpsest.ranges import checked

NEEDS = ("own_samples", "shadows", "forgotten")
TASKS = ("classification",)


class Probed(NamedTuple):
    """All heads, as `Heads` has them, and to which reading each belongs, bool (H,): to the attack, which has as many of
    every class, or to the count of as many heads of forgotten as of kept classes. A head may belong to both.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    trained_on: torch.Tensor
    server_weight: torch.Tensor
    server_bias: torch.Tensor
    of_attack: torch.Tensor
    of_count: torch.Tensor


@checked
def attack(
    at: OnLabels[Network],
    *,
    subsets: Annotated[int, "[1, inf)"] = 20,
    per_side: Annotated[int, "[0, inf)"] = 200,
    subset_size: Annotated[int, "[1, inf)"] = 100,
    head_init: Literal["torch", "zero", "server"] = "torch",
    epochs: Annotated[int, "[0, inf)"] = 20,
    lr: Annotated[float, "(0, inf)"] = 1e-3,
    batch_size: Annotated[int, "[1, inf)"] | None = 10,
) -> Probed:
    """Train `subsets` heads for every class of the unlearned server, on the attacker's own samples, and more to count.

    subsets: heads a class [R]. per_side [P, Figure 11]: heads of forgotten classes together, and of kept ones, that are
    counted one by one; none on a shadow server. subset_size: images of each, drawn without
    replacement, while two subsets may overlap [R]. head_init [R]: `torch`, a fresh `nn.Linear`, what the paper most
    likely did; `zero`; or the `server`'s own layer. epochs, lr: of Adam [R]. batch_size: images a step, in a fresh
    order each epoch; None for the whole subset [R]. A head's draws depend on the seed, its class and its number alone.
    Raises `ValueError` where there are no samples, a class has fewer images than `subset_size` or a label is none of
    the server's; `ModelError` where the server does not end in a linear layer; `Diverged` where its outputs or the
    heads are not finite.
    """
    if at.own_samples is None:
        raise ValueError("label_leakage: the heads are trained on samples of the attacker's, and there are none")
    images, labels = at.own_samples
    layer = _heads.final_layer(at.server)
    server_weight, server_bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    pools = [(labels == label).nonzero().flatten().cpu() for label in range(layer.out_features)]
    if sum(map(len, pools)) != len(labels):
        raise ValueError(f"label_leakage: a label lies outside 0..{layer.out_features - 1}, the server's classes")
    for label, pool in enumerate(pools):
        if len(pool) < subset_size:
            raise ValueError(f"label_leakage: class {label} has {len(pool)} images, subset_size asks for {subset_size}")
    counted = counts(at.forgotten, per_side)
    most = [max(subsets, counted.get(label, 0)) for label in range(len(pools))]
    names = [(at.seed, label, number) for label in range(len(pools)) for number in range(most[label])]
    inputs = _heads.features(at.server, images)
    device = inputs.device
    index = torch.stack([pools[name[1]][_heads.subset(len(pools[name[1]]), subset_size, *name)] for name in names])
    starts = [_heads.initial(layer, head_init, *name) for name in names]
    weight = torch.stack([weight for weight, _ in starts]).to(device)
    bias = torch.stack([bias for _, bias in starts]).to(device)
    trained_on = torch.tensor([label for _, label, _ in names], device=device)
    truth = F.one_hot(trained_on, len(pools))[:, None]
    adam = torch.optim.Adam([weight, bias], lr=lr, fused=True)
    for batch in _heads.batches(index, names, epochs, batch_size or subset_size):
        x = inputs[batch.to(device)]
        # CE's gradient by hand, (softmax - one-hot) / B: autograd's graph would take as long again as the products.
        error = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2)).softmax(2).sub_(truth).div_(x.shape[1])
        weight.grad, bias.grad = error.transpose(1, 2) @ x, error.sum(1)
        adam.step()
    for parameter in (weight, bias):
        finite(parameter, "label_leakage: the heads")
    of_attack = torch.tensor([number < subsets for _, _, number in names])
    of_count = torch.tensor([number < counted.get(label, 0) for _, label, number in names])
    return Probed(weight, bias, trained_on, server_weight, server_bias, of_attack, of_count)


def counts(forgotten: torch.Tensor | None, per_side: int) -> dict[int, int]:
    """How many heads of each class are counted: `per_side` of forgotten and of kept classes, none without both."""
    sides = [] if forgotten is None else [side.nonzero().flatten().tolist() for side in (forgotten, ~forgotten)]
    if not all(sides):
        return {}
    return {
        label: per_side // len(side) + (place < per_side % len(side))
        for side in sides
        for place, label in enumerate(side)
    }


@checked
def judge(
    found: Found,
    at: Judging,
    *,
    vector: Literal["weight_and_bias", "weight"] = "weight_and_bias",
    shadow_heads: Annotated[int, "[1, inf)"] = 10,
    bounds: bool = True,
) -> Judgement:
    """Decide by each decision rule which classes the server forgot, and call single heads.

    vector: the layer's weights and biases, or its weights [R]. shadow_heads [R]: heads of each class that are taken of
    a shadow server, which is what a tree's time depends on. bounds: whether the rules that the truth has a part in are
    applied too.
    """
    every = Heads(*(found[name] for name in Heads._fields))
    heads, counted = (every.only(found[name].to(every.weight.device)) for name in ("of_attack", "of_count"))
    known, own = (
        [Known(Heads(*(of[name] for name in Heads._fields)).first(shadow_heads), forgotten) for of, forgotten in some]
        for some in (at.shadows, at.own_shadows)
    )
    left = _heads.leave_class_out(known, at.truth) if bounds else []
    learnt = {"": known, "_own": own, "_left_out": left}
    by_class: dict[str, Judged] = {"kmeans": _dot.attack(heads, vector=vector, screening="kmeans")}
    rests = {"kmeans": 0}
    for ending, those in learnt.items():
        if those:
            by_class[f"youden{ending}"] = _dot.attack(heads, those, vector=vector)
            by_class[f"tree{ending}"] = _difference.attack(heads, those, seed=0, vector=vector)
            rests |= {f"youden{ending}": len(those), f"tree{ending}": len(those)}
    if known:
        by_class["youden_standardised"] = _dot.attack(heads, known, vector=vector, standardise=True)
        by_class["tree_sorted"] = _difference.attack(heads, known, seed=0, vector=vector, arrange="sorted")
        rests |= {"youden_standardised": len(known), "tree_sorted": len(known)}
    by_head = {}
    if bounds and at.truth.any() and not at.truth.all():
        by_class["youden_oracle"] = _dot.attack(heads, truth=at.truth, vector=vector, protocol="oracle_threshold")
        by_class["tree_oracle"] = _difference.attack(
            heads, truth=at.truth, seed=at.seed, vector=vector, protocol="oracle_split"
        )
    if len(counted.trained_on):
        cut = _dot.attack(counted, truth=at.truth, vector=vector, protocol="oracle_threshold")
        clusters = _dot.attack(counted, vector=vector, screening="kmeans")
        truth = counted.of_class(at.truth)
        by_head = {
            "youden": (cut.head_decisions, truth),
            "kmeans": (clusters.head_decisions, truth),
            "tree": _difference.head_calls(counted, at.truth, seed=at.seed, vector=vector),
        }
    drawn = counted if len(counted.trained_on) else heads
    return Judgement(
        {name: judged.decisions for name, judged in by_class.items()},
        {
            "dot_products": (_dot.products(drawn, vector), drawn.trained_on),
            "absolute_differences": (_difference.differences(drawn, vector).abs().sum(1), drawn.trained_on),
        },
        by_head,
        rests,
    )
