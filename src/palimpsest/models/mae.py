"""A masked autoencoder: it sees a part of an image's patches and answers with the whole image.

He, Chen, Xie, Li, Dollár, Girshick, "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. Both halves are
timm's vision transformer blocks. A key, and nothing that torch draws, decides which patches of an image are seen, so
that every network of one grid hides the same of it, on every device.

Published weights are those of facebookresearch/mae that have their decoder, such as mae_visualize_vit_large.pth. They
were trained to predict pixels, less ImageNet's mean and by its deviation, without the normalisation of each patch with
which the paper pre-trains for classification; without it a prediction is a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn

from palimpsest.models import ModelError, Pretrained, mixed
from palimpsest.ranges import checked


@checked
def build(
    classes: int,
    channels: int,
    *,
    side: Annotated[int, "[1, inf)"] | Sequence[Annotated[int, "[1, inf)"]] = 224,
    patch: Annotated[int, "[1, inf)"] = 16,
    width: Annotated[int, "[4, inf)"] = 1024,
    depth: Annotated[int, "[1, inf)"] = 24,
    heads: Annotated[int, "[1, inf)"] = 16,
    decoder_width: Annotated[int, "[4, inf)"] = 512,
    decoder_depth: Annotated[int, "[1, inf)"] = 8,
    decoder_heads: Annotated[int, "[1, inf)"] = 16,
    hidden: Annotated[float, "(0, 1)"] = 0.75,
) -> nn.Module:
    """Images (N, channels, H, W) and keys, `int64` (N,), to images (N, channels, H, W).

    The defaults are the paper's ViT-L/16 (its Section 4 and Table 1). classes: not read, since nothing is classified.
    side: of the images in pixels, one number or their height and width. patch: the side of a patch. width, heads:
    numbers of a token and attention heads, depth: blocks, of the encoder and of the decoder. hidden: the share of
    patches that are not seen, rounded to whole patches. Raises `ModelError` where these do not fit together.
    """
    sides = (side, side) if isinstance(side, int) else tuple(side)
    if len(sides) != 2 or sides[0] % patch or sides[1] % patch:
        raise ModelError(f"mae: side is one number or two, multiples of the patch of {patch} pixels, found {side}")
    for name, one, parts in (("width", width, heads), ("decoder_width", decoder_width, decoder_heads)):
        if one % 4 or one % parts:
            raise ModelError(f"mae: {name} is a multiple of 4 and of its {parts} heads, found {one}")
    grid = (sides[0] // patch, sides[1] // patch)
    count = grid[0] * grid[1]
    seen = round(count * (1 - hidden))
    if not 0 < seen < count:
        raise ModelError(f"mae: hidden={hidden} leaves {seen} of {count} patches to be seen; some must be, and not all")
    encoder = Encoder(grid, patch, channels, width, depth, heads)
    decoder = Decoder(grid, width, patch**2 * channels, decoder_width, decoder_depth, decoder_heads)
    return MaskedAutoencoder(encoder, decoder, grid, patch, seen)


def pretrained(net: nn.Module, published: Mapping[str, torch.Tensor]) -> Pretrained:
    """The release has one module for both halves: `decoder_blocks.0.norm1.weight`; all of it is taken."""

    def own(name: str) -> str:
        if name == "mask_token":
            return "decoder.mask_token"
        return f"decoder.{name.removeprefix('decoder_')}" if name.startswith("decoder_") else f"encoder.{name}"

    state = {own(name): tensor for name, tensor in published.items()}
    return Pretrained(state, "", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


class Encoder(nn.Module):
    """Images to features of the patches that are seen, each with its place, and of a class token before them."""

    pos_embed: torch.Tensor

    def __init__(self, grid: tuple[int, int], patch: int, channels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed((grid[0] * patch, grid[1] * patch), patch, channels, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("pos_embed", positions(*grid, width))
        self.blocks = _blocks(width, depth, heads)
        self.norm = LayerNorm(width)
        _begin(self, self.cls_token)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))

    def forward(self, images: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) and the indices of what is seen, `int64` (N, S), to features (N, 1 + S, width)."""
        tokens = torch.take_along_dim(self.patch_embed(images) + self.pos_embed[:, 1:], seen[:, :, None], 1)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat((first, tokens), 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class Decoder(nn.Module):
    """Features of the class token and of the patches that were seen to the pixels of all patches."""

    pos_embed: torch.Tensor

    def __init__(self, grid: tuple[int, int], given: int, numbers: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(given, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("pos_embed", positions(*grid, width))
        self.blocks = _blocks(width, depth, heads)
        self.norm = LayerNorm(width)
        self.pred = nn.Linear(width, numbers)
        _begin(self, self.mask_token)

    def forward(self, features: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """What `Encoder.forward` gives, and its indices, to patches (N, patches, rows * columns * channels)."""
        first, found = self.embed(features).split((1, seen.shape[1]), 1)
        tokens = self.mask_token.to(found.dtype).expand(len(found), self.pos_embed.shape[1] - 1, -1)
        tokens = tokens.scatter(1, seen[:, :, None].expand_as(found), found)
        tokens = torch.cat((first, tokens), 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.pred(self.norm(tokens))[:, 1:]


class MaskedAutoencoder(nn.Module):
    """An encoder that sees a part of every image, and a decoder that answers with the whole.

    grid: rows and columns of patches. patch: the side of each. seen: how many of them are seen.
    """

    HIDES = True

    def __init__(self, encoder: Encoder, decoder: Decoder, grid: tuple[int, int], patch: int, seen: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.grid, self.patch, self.seen = grid, patch, seen

    def forward(self, scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) whose seen patches are those of `scaled`, and whose hidden ones the decoder predicts."""
        count, channels, height, width = scaled.shape
        seen = self._seen(keys, height, width)
        patches = self.decoder(self.encoder(scaled, seen), seen)
        # Within a patch the release counts by row, then by column, then by channel.
        patches = patches.reshape(count, *self.grid, self.patch, self.patch, channels)
        predicted = patches.permute(0, 5, 1, 3, 2, 4).reshape(scaled.shape)
        return torch.where(self._pixels(seen), scaled, predicted.to(scaled.dtype))

    def encode(self, scaled: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """What the encoder gives the decoder, (N, 1 + patches that are seen, width): the class token is the first."""
        return self.encoder(scaled, self._seen(keys, *scaled.shape[2:]))

    def visible(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Which pixels are seen: bool (N, 1, height, width)."""
        return self._pixels(self._seen(keys, height, width))

    def _pixels(self, seen: torch.Tensor) -> torch.Tensor:
        patches = torch.zeros(len(seen), self.grid[0] * self.grid[1], dtype=torch.bool, device=seen.device)
        patches = patches.scatter(1, seen, True).reshape(-1, 1, *self.grid)
        return patches.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def _seen(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The patches of each image that are seen, by row and column: `int64` (N, seen), ascending.

        They are those with the largest scores. A score is made of the key and the patch, no two of an image are equal.
        """
        rows, columns = self.grid
        if (height, width) != (rows * self.patch, columns * self.patch):
            expected = f"{rows * self.patch}x{columns * self.patch}"
            raise ModelError(f"mae: the network takes images of {expected} pixels, found {height}x{width}; set `side`")
        places = mixed(torch.arange(1, rows * columns + 1, device=keys.device))
        return mixed(keys[:, None] + places).topk(self.seen, 1).indices.sort(1).values


def positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Fixed embeddings of the places of a grid, row by row, after zeros for the class token: (1, 1 + places, width).

    A quarter of the numbers each are sines and cosines of the column, then of the row, at rates from 1 down to 1/10000.
    """
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (column, row)]
    found = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return torch.cat((torch.zeros(1, width), found.float()))[None]


def _blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    # timm's own LayerNorm has the release's epsilon, 1e-6.
    blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
    for block in blocks:
        # Of so few tokens torch's fused attention saves nothing, and on a CPU its gradient in bfloat16 takes 63% of a
        # step: without it a step has 0.25 s, with it 0.58 s, in float32 0.36 s (64 pixels, patch 8, torch 2.15).
        cast(Any, block).attn.fused_attn = False
    return blocks


def _begin(half: nn.Module, token: nn.Parameter) -> None:
    """Fresh weights, as in the release: Xavier's, without biases, and small tokens."""
    nn.init.normal_(token, std=0.02)
    for module in half.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
