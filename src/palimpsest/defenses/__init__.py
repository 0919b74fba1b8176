"""Defenses: each file is one test-time purifier and has one function, `purify(images, *, ...) -> images`.

All queries pass it before the network sees them, attacked or not (UMA paper, Section 5.3): `uint8` (N, C, H, W) of one
or three channels to new ones of the same shape on the same device, the same at every call. N may be 0. What stands
after `*` are the method's hyper-parameters, each with its default and, in its annotation, its range.

The paper's purifiers and their numbers stand in its Appendix A.2, which the text we have lacks: methods and values are
ours (docs/methods.md 2.7, [R] our decision), and there is no published number to compare with.

A method that must learn what images look like has a second function, and only then a second argument of the first,

    prepare(retain, seed, *, ...) -> kept
    purify(images, kept, *, ...) -> images

`prepare` takes the retained samples (never the forget set: a purifier that knows it could hand it back) and gives
tensors by name, which `purify` gets at every call.
"""
