"""Defenses: each file is one test-time purifier and has one function, `purify(images, *, ...) -> images`.

All queries pass it before the network sees them, attacked or not (S000:364): `uint8` (N, C, H, W) of one or three
channels to new ones of the same shape on the same device, the same at every call. N may be 0. Keyword-only arguments
are the method's hyper-parameters.

The paper's purifiers and their numbers stand in its Appendix A.2, which the text we have lacks: methods and values are
ours (methods.md 2.7, [R] our decision), and there is no published number to compare with.

A method that must learn what images look like has a second function,

    prepare(retain, *, seed, ...) -> kept

which takes the retained samples (never the forget set: a purifier that knows it could hand it back) and gives the
tensors that the workflow fills in as `kept` when it calls `purify`.
"""
