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
The paper trains on subsets of "retained" and of "forgotten" data, which an attacker cannot tell apart yet. So every
class gets as many heads, and each head sees one class, as in the theory (eq. 10-17). The extractor is the *unlearned*
server's: the symbols are lost, and the attacker has no other. "The fully connected layer" is the last one
(docs/methods.md#l-13); LeNet's other two stay frozen.

Youden's threshold and the tree are learnt on shadow servers (docs/methods.md#l-3). As the paper has them, neither
carries over well from one server to another: products grow with a server's norm, and hidden units of two trainings do
not correspond. `youden_standardised` and `tree_sorted` are our corrections of this. `youden_oracle` and `tree_oracle`
learn from the target's own truth, as the paper may have done: they are bounds and no attacks.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch.nn import functional as F

from palimpsest.attacks.on_labels import Found, Judgement, Judging, OnLabels, _difference, _dot, _heads
from palimpsest.attacks.on_labels._heads import Heads, Known
from palimpsest.models import Network, finite
from palimpsest.ranges import checked

NEEDS = ("own_samples", "shadows")
TASKS = ("classification",)


@checked
def attack(
    at: OnLabels[Network],
    *,
    subsets: Annotated[int, "[1, inf)"] = 20,
    subset_size: Annotated[int, "[1, inf)"] = 100,
    head_init: Literal["torch", "zero", "server"] = "torch",
    epochs: Annotated[int, "[0, inf)"] = 20,
    lr: Annotated[float, "(0, inf)"] = 1e-3,
    batch_size: Annotated[int, "[1, inf)"] | None = 10,
) -> Heads:
    """Train `subsets` heads for every class of the unlearned server, on the attacker's own samples.

    subsets: heads a class [R]; the paper's Figure 11 has 200 + 200 of them. subset_size: images of each, drawn without
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
    names = [(at.seed, label, number) for label in range(len(pools)) for number in range(subsets)]
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
    return Heads(weight, bias, trained_on, server_weight, server_bias)


@checked
def judge(
    found: Found,
    at: Judging,
    *,
    vector: Literal["weight_and_bias", "weight"] = "weight_and_bias",
    most_shadows: Annotated[int, "[1, inf)"] = 5,
    oracle: bool = True,
) -> Judgement:
    """Decide by each decision rule which classes the server forgot.

    vector: the layer's weights and biases, or its weights [R]. most_shadows [R]: at most so many shadows are used;
    those that forgot one of the target's classes are left out, unless none is left then. oracle: whether the two bounds
    are computed too.
    """
    heads = Heads(**found)
    known = [Known(Heads(**of), forgotten) for of, forgotten in at.shadows]
    known = (_heads.leave_class_out(known, at.truth) or known)[:most_shadows]
    dot = {
        "youden": _dot.attack(heads, known, vector=vector),
        "youden_standardised": _dot.attack(heads, known, vector=vector, standardise=True),
        "kmeans": _dot.attack(heads, vector=vector, screening="kmeans"),
    }
    trees = {
        "tree": _difference.attack(heads, known, seed=at.seed, vector=vector),
        "tree_sorted": _difference.attack(heads, known, seed=at.seed, vector=vector, arrange="sorted"),
    }
    if oracle:
        dot["youden_oracle"] = _dot.attack(heads, truth=at.truth, vector=vector, protocol="oracle_threshold")
        trees["tree_oracle"] = _difference.attack(
            heads, truth=at.truth, seed=at.seed, vector=vector, protocol="oracle_split"
        )
    return Judgement(
        {name: judged.decisions for name, judged in (dot | trees).items()},
        {
            "dot_products": (dot["kmeans"].values, heads.trained_on),
            "absolute_differences": (trees["tree"].values, heads.trained_on),
        },
    )
