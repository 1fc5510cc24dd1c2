"""From raw files to batches.

The way of a sample, file by file:

* ``datasets/`` finds the samples of a data set in a tree of raw files, and decodes one (``Entry`` to ``Sample``).
* ``decoding`` does that for all of them, in order, in many processes.
* ``check``, for ``ctm check-data`` alone, keeps nothing but what was found.
* ``pack``, for ``preprocess``, writes shards, with ``statistics`` of the channels, a ``journal`` to resume from, and
  ``findings`` for people.
* ``shard_writer`` writes the tar files and their records; ``shard_index`` says what ``index.json`` holds.
* ``shards`` reads a folder of shards, sample by sample: all stages after ``preprocess`` begin here.
* ``transforms`` makes tensors of a stored image and its mask, with one random geometry for both.
* ``loaders`` makes the batches that models are trained on.

Beside it lie ``classes`` (mask values, tokens, colours), ``sample`` (encodings), ``inputs`` (what a model takes),
``config`` and ``libraries``, and for people to look at ``contact_sheet``, ``display``, ``mask_files`` and ``unpack``.
"""
