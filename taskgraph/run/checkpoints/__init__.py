"""When checkpoints are written, and which one a run goes on from."""
