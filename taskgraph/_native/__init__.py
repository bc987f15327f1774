"""Bytes over MPI and messages in memory, compiled: mechanism, no policy. Call `mpi.check` before importing `wire`."""
