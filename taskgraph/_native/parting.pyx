"""A limit for the very end of a process: MPI_Finalize waits for every rank, and for one that is gone for ever.

Rule 1: no Python thread runs any more by then, so a thread of C waits. Rule 2: it begins when all Python code is
through, exit handlers of the user included: those may take their time. It begins before MPI's own exit handler, which
was registered earlier. Rule 3: a process ends here only after another one that it waits for has; ranks that live, and
are at work outside the job, are waited for as long as it takes.

What is to be done is kept by the module, as the interpreter has one such end only.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport strdup

cdef extern from "Python.h":
    int Py_AtExit(void (*)() noexcept)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd*, unsigned long, int)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t*, const void*, void* (*)(void*) noexcept nogil, void*)

cdef extern from "<unistd.h>" nogil:
    unsigned int sleep(unsigned int)
    int unlink(const char*)
    void _exit(int)

cdef struct End:
    pollfd* others
    int num_others
    bint is_gone
    unsigned int grace_s
    int status
    char** files
    int num_files

cdef End the_end
cdef bint is_registered = False


def limit(descriptors, bint is_gone, int grace_s, int status, files):
    """Let this process end by itself once one of the processes that it waits for is gone.

    Parameters
    ----------
    descriptors
        Pidfds of those processes, which stay open.
    is_gone
        Whether one is gone already.
    grace_s
        Seconds from then on.
    status
        To end with.
    files
        Paths, as bytes, to be removed first.
    """
    global is_registered
    cdef int i
    for i in range(the_end.num_files):
        free(the_end.files[i])
    free(the_end.files)
    free(the_end.others)
    the_end.num_others = the_end.num_files = 0
    the_end.others = <pollfd*>calloc(len(descriptors) + 1, sizeof(pollfd))
    the_end.files = <char**>calloc(len(files) + 1, sizeof(char*))
    if the_end.others == NULL or the_end.files == NULL:
        raise MemoryError
    for descriptor in descriptors:
        the_end.others[the_end.num_others].fd = descriptor
        the_end.others[the_end.num_others].events = <short>POLLIN
        the_end.num_others += 1
    for path in files:
        the_end.files[the_end.num_files] = strdup(<const char*>path)
        the_end.num_files += 1
    the_end.is_gone, the_end.grace_s, the_end.status = is_gone, <unsigned int>grace_s, status
    if not is_registered and Py_AtExit(begin) == 0:
        is_registered = True


cdef void begin() noexcept:
    cdef pthread_t thread
    pthread_create(&thread, NULL, wait_and_end, NULL)


cdef void* wait_and_end(void* nothing) noexcept nogil:
    cdef unsigned int left_s = the_end.grace_s
    cdef int i
    if not the_end.is_gone:
        while poll(the_end.others, <unsigned long>the_end.num_others, -1) <= 0:
            pass  # a signal
    while left_s > 0:
        left_s = sleep(left_s)
    for i in range(the_end.num_files):
        if the_end.files[i] != NULL:
            unlink(the_end.files[i])
    _exit(the_end.status)
    return NULL
