"""From class-token attention to pseudo-masks: maps, refinement, assignment."""
