"""What is used of MPI, as its C header declares it."""

cdef extern from "mpi.h" nogil:
    ctypedef struct _comm "MPI_Comm":
        pass
    ctypedef _comm MPI_Comm
    ctypedef struct _request "MPI_Request":
        pass
    ctypedef _request MPI_Request
    ctypedef struct _datatype "MPI_Datatype":
        pass
    ctypedef _datatype MPI_Datatype
    ctypedef struct MPI_Status:
        int MPI_SOURCE
        int MPI_TAG
        int MPI_ERROR
    MPI_Datatype MPI_BYTE
    MPI_Request MPI_REQUEST_NULL
    int MPI_SUCCESS, MPI_UNDEFINED, MPI_MAX_ERROR_STRING
    MPI_Status* MPI_STATUS_IGNORE
    int MPI_Isend(const void* buffer, int count, MPI_Datatype datatype, int peer, int tag, MPI_Comm comm,
                  MPI_Request* request)
    int MPI_Irecv(void* buffer, int count, MPI_Datatype datatype, int peer, int tag, MPI_Comm comm,
                  MPI_Request* request)
    int MPI_Test(MPI_Request* request, int* flag, MPI_Status* status)
    int MPI_Testany(int count, MPI_Request* requests, int* index, int* flag, MPI_Status* status)
    int MPI_Wait(MPI_Request* request, MPI_Status* status)
    int MPI_Cancel(MPI_Request* request)
    int MPI_Request_free(MPI_Request* request)
    int MPI_Get_count(const MPI_Status* status, MPI_Datatype datatype, int* count)
    int MPI_Error_class(int code, int* error_class)
    int MPI_Error_string(int code, char* text, int* length)

cdef extern from *:
    """
    #if defined(MPIX_ERR_PROC_FAILED)
    #  define TG_PROC_FAILED MPIX_ERR_PROC_FAILED
    #elif defined(MPI_ERR_PROC_FAILED)
    #  define TG_PROC_FAILED MPI_ERR_PROC_FAILED
    #else
    #  define TG_PROC_FAILED (-1)
    #endif
    static inline int tg_is_null(MPI_Request request) { return request == MPI_REQUEST_NULL; }
    """
    int TG_PROC_FAILED
    bint tg_is_null(MPI_Request request) nogil
