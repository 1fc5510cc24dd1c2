"""The stages as components of Kubeflow Pipelines."""
