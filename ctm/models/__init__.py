"""The class-token vision transformer with head gates, its pruning, and the segmenter."""
