"""Training: one loop on Lightning Fabric, and the two tasks that run on it.

Top to bottom, each importing those below it:

* ``classifier`` and ``segmenter``: the tasks, that is loss and validation, and what is trained for how long.
  ``head_selection`` closes heads for a given sparsity, ``noisy_labels`` has the segmenter's losses, ``self_training``
  its own masks, ``statistics`` its batch normalisation over processes; ``history`` writes ``history.csv``.
* ``session``: device, processes, loaders and optimiser of a training, the same for both.
* ``loop``: epochs and steps, from wherever an interrupted run was; with ``checkpoints``, ``optimiser`` (AdamW and its
  schedule), ``compiling`` (torch.compile).
* ``processes`` (several, one a GPU), ``device`` (and precision, and seeds of a step), ``config`` (the parameters).
"""
