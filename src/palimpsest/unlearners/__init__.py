"""Unlearners: each file is one method and has one function, `unlearn(model, forget, retain, *, ...) -> Network`.

Keyword-only arguments are the method's hyper-parameters, the paper's values as defaults. Some of them are not for the
configuration, the workflow fills them in for methods that name them:

    seed, recipe    a number, and how the base model was trained
    checkpoint      where a long training may resume
    initial         the network that training began with
    indices         where the forget set's images stand in the training set, `int64`, ascending
    replacement     what the forget set shall become instead of being removed, one image for each of its images
    penalty         what `adversarial` adds to the loss of methods that train on the forget set
    kept            tensors that the method's own base training left

The model handed in is never changed. An empty forget set gives the original weights back: nothing was asked to be
forgotten. A method whose base model must be trained in a way of its own has a second function,

    train_base(model, data, *, seed, recipe, ...) -> (network, kept)

which takes a network with fresh weights and all training samples.
"""
