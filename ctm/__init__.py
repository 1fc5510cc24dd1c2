"""ctm: segmentation masks from image-level labels, as a reproducible pipeline."""

__version__ = "0.1.0"
