"""Samples that somebody lists: a text file with one index a line, served in that order.

So a request that was made elsewhere, with whatever an adversary knows, can be put to every unlearner.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from palimpsest.data import Images
from palimpsest.ranges import checked
from palimpsest.requests import Choice, Request, RequestError, check

READS = ("path",)


@checked
def choose(images: Images, at: Choice, *, path: str = "", keep_classes: bool = False) -> Request:
    """The training samples that the file names, in its order; the same for every seed.

    path: the file, in UTF-8, relative to the folder in which the process runs, which is the project's in a job. A line
    is one index into the training set, from 0; what follows a # and lines without an index are skipped. keep_classes:
    whether a class may not lose its last sample.
    Raises `RequestError`, with the line, for what is no index of a training sample and for a sample that is named
    twice; and where the file cannot be read, names no sample or names all.
    """
    total, lines = len(images.train_labels), dict[int, int]()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"file: path cannot be {path!r}: it is no text file that can be read ({error})") from error
    for line, content in enumerate(text.splitlines(), 1):
        if not (word := content.partition("#")[0].strip()):
            continue
        if not re.fullmatch("[0-9]{1,18}", word) or (index := int(word)) >= total:
            raise RequestError(f"{path}:{line} names {word[:40]!r}; a training sample has an index in 0..{total - 1}")
        if index in lines:
            raise RequestError(f"{path}:{line} names training sample {index}, as line {lines[index]} did already")
        lines[index] = line
    if not lines:
        raise RequestError(f"{path} names no training sample")
    return check(images, Request(torch.tensor([*lines])), keep_classes)
