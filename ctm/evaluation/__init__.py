"""Scores of classifiers and masks, baselines, and the report page."""
