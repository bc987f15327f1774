"""The ends of channels, the processors between them, and the epoch that fires them."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from numpy cimport ndarray

cdef class Port:
    """The way to one other rank. What it is made of is the transport's business."""
    cpdef int send(self, uint64_t channel, uint64_t epoch, object value, bint copy) except -1

cdef class Pump:
    """Brings in what other ranks sent, and takes to them what is no value."""
    cpdef int pump(self) except -1
    cpdef int poll(self) except -1
    cpdef int drain(self) except -1
    cpdef int send_control(self, int peer, uint64_t topic, uint64_t epoch, bytes data) except -1
    cpdef int send_copy(self, int peer, list frames) except -1

cdef class InboundChannel:
    cdef readonly object id
    cdef readonly object task
    cdef readonly object tag
    cdef readonly uint64_t key
    cdef Epoch epoch
    cdef Processor processor
    cdef object value
    cdef bint arrived
    cdef ndarray vacant         # the last value, where nobody has kept it: the next one may go there

    cdef int let_go(self) except -1

cdef class OutboundChannel:
    cdef readonly object id
    cdef readonly object task
    cdef readonly object tag
    cdef readonly uint64_t key
    cdef Epoch epoch
    cdef Port port              # None: the task is on this rank
    cdef Processor processor
    cdef int64_t last_put       # epoch of the last put, -1 before the first

    cdef int take(self, value, copy) except -1
    cdef object wrong(self, str what)

cdef class Processor:
    cdef readonly object task
    cdef readonly int index
    cdef readonly tuple ins
    cdef readonly tuple outs
    cdef public object compute
    cdef int missing            # in channels without their value

cdef struct Place:
    uint64_t key
    PyObject* inbound           # borrowed of `Epoch.inbound`; NULL: empty

cdef struct Mark:               # as `taskgraph.backends.words` has it
    int64_t epoch
    int64_t working             # the task whose code runs, plus 1; 0: of none
    int64_t entered_ns          # when the epoch was entered, since 1970

cdef class Epoch:
    cdef readonly int64_t number
    cdef readonly int64_t entered
    cdef readonly Processor running
    cdef object mistake         # the error of this rank's user code that has to end the job, even if it was caught
    cdef int forks              # as it was when this was made
    cdef Pump transport
    cdef object codec
    cdef list tasks             # of lists of processors, in the order composed
    cdef dict inbound           # key -> InboundChannel
    cdef Place* places          # the same, open-addressed: looked up with no Python number, 0.05 us less a message
    cdef uint64_t mask          # number of places, a power of two, minus 1
    cdef dict early             # (key, epoch) -> value
    cdef int arrivals
    cdef object hook            # of taskgraph.trace, as it was when the epoch began
    cdef object calling         # the task whose code runs outside of processors
    cdef int64_t[::1] marked
    cdef Mark* mark             # read by others, also when this process is dead
    cdef Mark unread
    cdef int deliver(self, uint64_t key, int64_t epoch, object value) except -1
    cdef int index(self) except -1
    cdef InboundChannel find(self, uint64_t key)
    cdef ndarray take_vacant(self, uint64_t key)
    cdef int release(self) except -1
    cdef int fire(self, Processor processor) except -1
