"""Using trained models: masks of new images by a segmenter, and what a classifier looks at in them."""
