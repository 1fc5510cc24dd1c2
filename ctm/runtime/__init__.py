"""What every stage runs on: context, whole-or-nothing outputs, checkpoints, manifest, progress."""
