"""Attacks on unlearned models, in a folder for each stage at which an attacker acts.

    on_images    searches for inputs near given images that bring the forgotten answers back
    on_labels    finds out, from an unlearned server's answers or weights, which classes it was made to forget

Each file of a stage is one method; a file whose name begins with `_` is a helper of several. The stage's `__init__.py`
describes what a method is given. An attack that consists of the requests that an attacker submits is a request:
`palimpsest.requests` chooses those.
"""
