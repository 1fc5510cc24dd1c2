"""Training: one loop on Lightning Fabric, and the tasks that run on it."""
