"""The only loops: what starts, runs, watches and ends a job. Each part imports only those before it.

``state``
    The tasks of a rank, and the snapshots of what they protect.
``host``
    What the processes of a host share: a directory of small files, and who is there.
``worker``
    The main thread of a rank: epochs and generations.
``checkpoints``
    When checkpoints are written, by whom, and which one a run may go on from.
``unit``
    What a sidecar thread and a keeper have in common: the watch on etcd, recovery, the end of the job.
``keeper``
    The process that keeps a host.
``start``
    From N processes to ranks that know each other, and to the first decision.
``probes``
    Injected failures, and proofs of what a run came to.
``rank``
    All of it put together, on one rank under MPI.

Two jobs are put together elsewhere: `alone`, in one process, and `supervisor`, which launches others.
"""
