"""One value on its way: the header that leads it, and the memory that it arrives in."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from numpy cimport ndarray

cdef enum:
    EAGER_BYTES = 4000      # a message up to this size travels whole; a longer one as header, then payload
    PIECEWISE_BYTES = 16384  # a payload up to this size travels in pieces of the former, the first with the header
    REUSED_BYTES = 1024     # an array up to this size is used for the next value where nobody has kept it
    MAX_FRAMES = 256        # most pieces that an object may be pickled into
    MAX_NDIM = 64

cdef enum Kind:
    ARRAY = 1               # a NumPy array: dtype and shape in the header
    OBJECT = 2              # frames of a pickled object
    CONTROL = 3             # bytes of ours, from worker to worker
    COPY = 4                # frames of a snapshot, from worker to worker

cdef enum Flag:
    INLINE = 1              # the payload follows in the same message
    FORTRAN = 2             # column-major
    NAMED_DTYPE = 4         # `meta` is a pickled dtype; else `dtype` is a NumPy type number
    MORE = 8                # a control message goes on in the next one of its kind

cdef struct Header:
    uint64_t channel        # key of the channel, or the topic of a control message
    uint64_t epoch
    uint64_t nbytes         # of the payload, all frames together
    uint32_t generation
    uint32_t meta           # bytes of the pickled dtype
    uint32_t frames         # number of frame sizes that follow
    uint8_t kind
    uint8_t dtype
    uint8_t ndim
    uint8_t flags
# Behind the header: ndim sizes of the shape, the frame sizes, the pickled dtype, the payload where it is inline.

cdef int describe(ndarray array, Header* header) except -1
cdef bint is_plain(ndarray array)
cdef size_t lead_bytes(const Header* header) noexcept nogil
cdef size_t head_bytes(const Header* header) noexcept nogil
cdef int check(const Header* header, size_t received) except -1
cdef ndarray empty(const Header* header, const int64_t* shape, object dtype)
cdef bint fits(ndarray array, const Header* header, const int64_t* shape) noexcept
cdef bint is_forsaken(ndarray array) except -1
cdef ndarray copied(ndarray array, ndarray vacant=*)
cdef ndarray empty_bytes(size_t nbytes)
