"""Presets: complete parameters for a data set, written to params.yaml by `ctm init`."""
