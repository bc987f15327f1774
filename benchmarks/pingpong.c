/* The floor: what MPI itself takes to pass a buffer back and forth. Loaded by channel.py. */
#include <mpi.h>

/* Seconds one way. `comm` points to a communicator of two ranks. */
double pingpong(MPI_Comm *comm, int first, int peer, char *buffer, long nbytes, long trips)
{
    double start = MPI_Wtime();
    for (long i = 0; i < trips; i++) {
        if (first) {
            MPI_Send(buffer, (int)nbytes, MPI_BYTE, peer, 1, *comm);
            MPI_Recv(buffer, (int)nbytes, MPI_BYTE, peer, 1, *comm, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(buffer, (int)nbytes, MPI_BYTE, peer, 1, *comm, MPI_STATUS_IGNORE);
            MPI_Send(buffer, (int)nbytes, MPI_BYTE, peer, 1, *comm);
        }
    }
    return (MPI_Wtime() - start) / (double)trips / 2.0;
}
