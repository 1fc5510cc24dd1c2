"""From the classifier to pseudo-masks: maps, refinement, assignment, shards.

Top to bottom, each importing those below it; an image goes from the classifier to its mask from the bottom up:

* ``extraction``: all masks of a data set, by one process or several; ``ahead`` lets threads finish one batch while the
  model reads the next. Before it ``auto`` chooses a recipe, by ``quality``, and ``token_choice`` the class tokens.
* ``mask_shards``: masks as shards, with their metrics (``ranking``: what the classifier knows); ``joining`` and
  ``parts``: of a share of the images each.
* ``masks``: the mask of an image by ``assign`` (``background``: Otsu's threshold); ``samples``: of some images alone.
* ``readings``: what the classifier says of each image of a split; ``pamr`` refines it at the pixels.
* ``maps``: class maps of a batch, over ``views`` of other sizes and mirrored, along the affinity of the patches;
  ``candidate_tokens``: from a shorter sequence. ``strategies`` has the ways to read them, one a file.
* ``config``: the parameters; ``recipes``: one-word descriptions of how masks are made, from ``map_config``.
"""
