"""Attacks on unlearned models, in a folder for each stage at which an attacker comes in.

    on_images    searches for inputs near given images that bring the forgotten answers back
    on_labels    asks an unlearned server, image by image or by its weights, which classes it was made to forget

Each file of a stage is one method, and a file whose name begins with `_` helps several of them. What a method is given
stands in its stage's `__init__.py`. An attack that consists of the requests an attacker submits is a request:
`palimpsest.requests` chooses those.
"""
