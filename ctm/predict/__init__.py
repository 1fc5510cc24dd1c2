"""Using trained models: masks of new images by a segmenter, and what a classifier looks at in them.

The way of an image, file by file:

* ``images`` finds it, and holds its header against what the model takes, before any work.
* ``mask_folder`` says whether its mask is there already.
* ``sources`` reads it as ``preprocess`` would have stored it: whole, or by bands of rows.
* ``network`` is the segmenter: stored images to logits.
* ``tiling`` makes one mask of overlapping tiles, in memory that does not grow with the image's height.
* ``masks`` does all of this for ``ctm predict``, and writes PNGs and GeoTIFFs.
* ``explain``, for ``ctm predict --explain``, writes a classifier's probabilities and what speaks for them.
"""
