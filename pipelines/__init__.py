"""The pipelines of Kubeflow, made from the stages: compiled, checked, run, submitted, recorded."""
