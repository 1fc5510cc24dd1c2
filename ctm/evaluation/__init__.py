"""Evaluation: scores, what they are compared with, and pages that show them.

Top to bottom, each importing those below it:

* ``finished_run``: the artifacts of a run, opened and scored, which is the stage evaluate.
* ``report``, filled by ``page``: the report of one run; ``strategies``: recipes side by side (``ctm compare``);
  ``comparison``: runs side by side (``ctm compare-runs``), with ``spread`` over seeds; ``sheet``, ``figures``,
  ``svg``, ``sparsity_curve`` and ``style`` are what these pages are made of.
* ``gate``: whether a run is good enough (``ctm gate``).
* ``compare``: masks made in other ways, from recipes and ``baselines``.
* ``scoring``: a split's scores, streamed; ``masks`` (mIoU by one confusion matrix), ``labels`` (mAP), ``confusion``
  (which class is taken for which), ``config``: the parameters.
"""
