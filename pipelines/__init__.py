"""The pipelines of Kubeflow, made from the stages: compiled, checked, run, submitted, recorded.

A map of the files; each uses those above it in its paragraph, and `cli` all of them:

* The command: `cli` (how it ends), `commands/` (one file each), `options` (what several have), `errors`.
* What is made: `images` (which container image a stage gets), `profiles` (what pods ask of a cluster), `build` (the
  pipelines and the generated files), `check` (faults of a compiled package), `trainjob` (a stage over several nodes).
* What a run is made from: `working_tree` (git and DVC), `raw_data` (where they are, what names their contents).
* On a server: `server` (the connection), `request` (what is asked for), `submit` (a run of it), `wait` (to its end),
  `schedule` (again and again), `record` (model and metrics back into the tree).
* On this machine's Docker: `local_runner` (kfp's own, mended), `local_outputs` (what it has left), `local` (a run).
* Sweeps with DVC: `table8` (the paper's), `grids` (what to run), `experiments` (which runs belong together), `sweep`
  (queued, run, collected), `results_page` and `results` (files to keep), `portable` (without this machine's paths).

The files `ctm*.yaml` are generated; `profiles.yaml` is for people to edit.
"""
