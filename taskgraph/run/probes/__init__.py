"""Injected failures, and proofs of what a run came to."""
