"""A deterministic world in which the code of `taskgraph.plan` lives through seeded schedules of failures."""
