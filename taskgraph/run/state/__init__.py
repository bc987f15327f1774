"""The tasks of a rank, and the snapshots of what they protect."""
