"""The stages as components of Kubeflow Pipelines.

`factory` makes a component of any stage, `steps` has the two that are no stages: the names of the parts of a fan-out,
and the comparison of several runs. The files `*.yaml` are generated, one a stage, by `ctm-pipeline compile`.
"""
