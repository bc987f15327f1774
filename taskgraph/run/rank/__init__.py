"""One rank of a job under MPI, from start to end."""
