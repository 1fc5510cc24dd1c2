"""From raw files to batches: readers, shards, transforms, loaders."""
