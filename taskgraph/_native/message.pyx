"""One value on its way: the header that leads it, and the memory that it arrives in.

Arrays of `POOLED_BYTES` and more take their memory from a pool, by NumPy's own allocator interface (NEP 49): they own
it like any other array, and it returns to the pool when the last reference goes. A fresh 64 MiB array costs more in
page faults than its transfer.
"""

from cpython.mem cimport PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
cimport numpy as cnp
from numpy cimport ndarray

cnp.import_array()

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE
    void* MAP_FAILED

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void* ctx
        void* (*malloc)(void* ctx, size_t size) noexcept
        void* (*calloc)(void* ctx, size_t count, size_t size) noexcept
        void* (*realloc)(void* ctx, void* old, size_t size) noexcept
        void (*free)(void* ctx, void* old, size_t size) noexcept
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object handler)
    PyObject* PyArray_DescrFromType(int number)
    object PyArray_Empty(int ndim, cnp.npy_intp* shape, cnp.PyArray_Descr* steals_dtype, bint fortran)
    bint PyDataType_REFCHK(cnp.PyArray_Descr* dtype)
    ctypedef struct PyArrayObject_fields:
        PyObject* weakreflist

cdef enum:
    POOLED_BYTES = 65536
    PAGE = 4096
    HUGE = 2097152
    MAX_BLOCKS = 1024

# ---- the pool; the GIL guards it: NumPy calls these with the GIL held ----

cdef struct Block:
    void* memory
    size_t capacity
    bint idle
    uint64_t since          # when it became idle, counted in such events

cdef Block blocks[MAX_BLOCKS]
cdef int num_blocks = 0
cdef size_t live_bytes = 0
cdef size_t peak_bytes = 0
cdef size_t idle_bytes = 0
cdef uint64_t times_idled = 0


cdef int find(void* memory) noexcept:
    cdef int i
    for i in range(num_blocks):
        if blocks[i].memory == memory:
            return i
    return -1


cdef void forget(int i) noexcept:
    global num_blocks
    num_blocks -= 1
    blocks[i] = blocks[num_blocks]


cdef void* pool_malloc(void* ctx, size_t size) noexcept:
    """Take the tightest idle block that wastes at most a quarter, else map a new one.

    There are so many blocks and no more: whoever keeps that many arrays gets further ones from the C library.
    """
    global num_blocks, live_bytes, peak_bytes, idle_bytes
    cdef int i, best = -1
    cdef void* memory
    cdef size_t capacity = (size + PAGE - 1) // PAGE * PAGE
    for i in range(num_blocks):
        if blocks[i].idle and capacity <= blocks[i].capacity <= capacity + capacity // 4:
            if best < 0 or blocks[i].capacity < blocks[best].capacity:
                best = i
    if best < 0:
        if num_blocks == MAX_BLOCKS:
            trim(idle_bytes)
        if num_blocks == MAX_BLOCKS:
            return malloc(size)
        memory = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory == MAP_FAILED:
            return NULL
        if capacity >= HUGE:
            madvise(memory, capacity, MADV_HUGEPAGE)
        best = num_blocks
        num_blocks += 1
        blocks[best].memory = memory
        blocks[best].capacity = capacity
    else:
        idle_bytes -= blocks[best].capacity
    blocks[best].idle = False
    live_bytes += blocks[best].capacity
    peak_bytes = max(peak_bytes, live_bytes)
    return blocks[best].memory


cdef void trim(size_t surplus) noexcept:
    """Give idle blocks back to the system, oldest first, until `surplus` bytes have gone."""
    global idle_bytes
    cdef int i, oldest
    cdef size_t gone = 0
    while gone < surplus:
        oldest = -1
        for i in range(num_blocks):
            if blocks[i].idle and (oldest < 0 or blocks[i].since < blocks[oldest].since):
                oldest = i
        if oldest < 0:
            return
        munmap(blocks[oldest].memory, blocks[oldest].capacity)
        gone += blocks[oldest].capacity
        idle_bytes -= blocks[oldest].capacity
        forget(oldest)


cdef void pool_free(void* ctx, void* memory, size_t size) noexcept:
    """Keep the block for the next array, unless more would lie idle than was ever in use at once."""
    global live_bytes, idle_bytes, times_idled
    cdef int i = find(memory)
    if i < 0:
        free(memory)
        return
    times_idled += 1
    blocks[i].idle = True
    blocks[i].since = times_idled
    live_bytes -= blocks[i].capacity
    idle_bytes += blocks[i].capacity
    if idle_bytes + live_bytes > peak_bytes + peak_bytes // 4:
        trim(idle_bytes + live_bytes - peak_bytes)


cdef void* pool_calloc(void* ctx, size_t count, size_t size) noexcept:
    cdef void* memory = pool_malloc(ctx, count * size)
    if memory != NULL:
        memset(memory, 0, count * size)
    return memory


cdef void* pool_realloc(void* ctx, void* old, size_t size) noexcept:
    cdef int i = find(old)
    cdef size_t before
    cdef void* memory
    if i < 0:
        return realloc(old, size)
    before = blocks[i].capacity
    memory = pool_malloc(ctx, size)
    if memory != NULL:
        memcpy(memory, old, min(before, size))
        pool_free(ctx, old, before)
    return memory


cdef object make_handler():
    cdef PyDataMem_Handler* handler = <PyDataMem_Handler*>PyMem_Malloc(sizeof(PyDataMem_Handler))
    if handler == NULL:
        raise MemoryError
    memset(handler, 0, sizeof(PyDataMem_Handler))
    memcpy(handler.name, b"taskgraph", 9)
    handler.version = 1
    handler.allocator.malloc = pool_malloc
    handler.allocator.calloc = pool_calloc
    handler.allocator.realloc = pool_realloc
    handler.allocator.free = pool_free
    return PyCapsule_New(handler, b"mem_handler", NULL)    # lives as long as the process


cdef object pooled = make_handler()


eager_bytes = <int>EAGER_BYTES


def pool_state():
    """Return bytes in arrays, bytes idle in the pool, and the most ever in arrays at once."""
    return live_bytes, idle_bytes, peak_bytes


# ---- headers ----

cdef bint is_plain(ndarray array):
    """Tell whether the array's memory is its whole value: no references, no dtype with code of its own.

    Items of no bytes are not plain: NumPy makes their strings one character long wherever it makes an array of them.
    """
    return (
        cnp.PyArray_TYPE(array) < cnp.NPY_NTYPES_LEGACY
        and not PyDataType_REFCHK(cnp.PyArray_DESCR(array))
        and cnp.PyArray_ITEMSIZE(array) > 0
    )


cdef int describe(ndarray array, Header* header) except -1:
    """Fill in what the header says of an array, the pickled dtype apart. One that is in no order goes in C order."""
    cdef int number = cnp.PyArray_TYPE(array)
    cdef object builtin = cnp.PyArray_DescrFromType(number)
    header.kind = ARRAY
    header.frames = 0
    header.nbytes = cnp.PyArray_NBYTES(array)
    header.ndim = cnp.PyArray_NDIM(array)
    header.meta = 0
    header.flags = 0
    if cnp.PyArray_IS_F_CONTIGUOUS(array) and not cnp.PyArray_IS_C_CONTIGUOUS(array):
        header.flags = FORTRAN
    header.dtype = number
    if <PyObject*>builtin != <PyObject*>cnp.PyArray_DESCR(array):
        header.flags |= NAMED_DTYPE
    return 0


def borrows(array, codec):
    """Tell whether an array is put without a copy: a plain one, in one piece, too large for an eager message."""
    cdef Header header
    if type(array) is not ndarray or not is_plain(<ndarray>array):
        return False
    if not (cnp.PyArray_IS_C_CONTIGUOUS(<ndarray>array) or cnp.PyArray_IS_F_CONTIGUOUS(<ndarray>array)):
        return False
    describe(<ndarray>array, &header)
    if header.flags & NAMED_DTYPE:
        header.meta = <uint32_t>len(codec.dump_dtype(array.dtype))
    return lead_bytes(&header) <= EAGER_BYTES < lead_bytes(&header) + header.nbytes


def give_back(list arrays not None):
    """Make arrays writable again."""
    cdef ndarray array
    for array in arrays:
        cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)


cdef size_t lead_bytes(const Header* header) noexcept nogil:
    """Return the bytes before the payload."""
    return sizeof(Header) + 8 * (<size_t>header.ndim + header.frames) + header.meta


cdef size_t head_bytes(const Header* header) noexcept nogil:
    """Return how many bytes of the payload come in the message of the header."""
    if header.flags & INLINE:
        return header.nbytes
    if header.kind == ARRAY and header.nbytes <= PIECEWISE_BYTES:
        return EAGER_BYTES - lead_bytes(header)
    return 0


cdef int check(const Header* header, size_t received) except -1:
    """Refuse a header that does not describe the message it leads."""
    cdef const int64_t* shape = <const int64_t*>(header + 1)
    cdef uint64_t total = 0
    cdef uint32_t i
    if received < sizeof(Header):
        raise ValueError(f"a message of {received} bytes has no header")
    if header.kind not in (ARRAY, OBJECT, CONTROL, COPY) or header.ndim > MAX_NDIM or header.frames > MAX_FRAMES:
        raise ValueError("a header names a kind, a number of dimensions or of frames that does not exist")
    if (header.frames == 0) != (header.kind == ARRAY) or (header.kind == CONTROL and header.frames != 1):
        raise ValueError("a header has frames that do not belong to its kind")
    if header.meta > EAGER_BYTES or lead_bytes(header) > received:
        raise ValueError("a header is longer than its message")
    if lead_bytes(header) + head_bytes(header) != received:
        raise ValueError("a message is not as long as its header says")
    if not header.flags & INLINE and (header.nbytes <= head_bytes(header) or header.kind == CONTROL):
        raise ValueError("a header announces a payload that it has to bring")
    for i in range(header.ndim):
        if shape[i] < 0:
            raise ValueError("a header has a negative size")
    for i in range(header.frames):
        if <uint64_t>shape[header.ndim + i] > header.nbytes - total:
            raise ValueError("the frames are longer than the payload")
        total += shape[header.ndim + i]
    if header.kind != ARRAY and total != header.nbytes:
        raise ValueError("the frames do not make up the payload")
    return 0


cdef ndarray empty(const Header* header, const int64_t* shape, object dtype):
    """Make the array that a header describes, contents undefined, memory its own."""
    cdef ndarray array
    cdef bint from_pool = header.nbytes >= POOLED_BYTES
    if dtype is None:
        if header.dtype >= cnp.NPY_NTYPES_LEGACY or header.dtype == cnp.NPY_OBJECT:
            raise ValueError(f"a header names the dtype {header.dtype}, which does not exist")
        dtype = cnp.PyArray_DescrFromType(header.dtype)
    previous = PyDataMem_SetHandler(pooled) if from_pool else None
    try:
        Py_INCREF(dtype)
        array = PyArray_Empty(header.ndim, <cnp.npy_intp*>shape, <cnp.PyArray_Descr*><PyObject*>dtype,
                              (header.flags & FORTRAN) != 0)
    finally:
        if from_pool:
            PyDataMem_SetHandler(previous)
    if <uint64_t>cnp.PyArray_NBYTES(array) != header.nbytes:
        raise ValueError("shape and dtype of a header do not make up its payload")
    return array


cdef bint is_forsaken(ndarray array) except -1:
    """Tell whether the caller has the only reference to a small array of plain memory, and nobody can get another.

    One of references would keep alive what it refers to.
    """
    return (Py_REFCNT(array) == 1 and cnp.PyArray_NBYTES(array) <= REUSED_BYTES
            and (<PyArrayObject_fields*><PyObject*>array).weakreflist == NULL and is_plain(array))


cdef bint fits(ndarray array, const Header* header, const int64_t* shape) noexcept:
    """Tell whether an array, whatever was done to it, is as `empty` would make it."""
    cdef cnp.PyArray_Descr* dtype
    cdef int i
    if header.flags & (FORTRAN | NAMED_DTYPE) or cnp.PyArray_NDIM(array) != header.ndim:
        return False
    if not cnp.PyArray_CHKFLAGS(array, cnp.NPY_ARRAY_CARRAY | cnp.NPY_ARRAY_OWNDATA):
        return False
    if <uint64_t>cnp.PyArray_NBYTES(array) != header.nbytes or header.dtype >= cnp.NPY_NTYPES_LEGACY:
        return False
    for i in range(header.ndim):
        if cnp.PyArray_DIMS(array)[i] != shape[i]:
            return False
    dtype = <cnp.PyArray_Descr*>PyArray_DescrFromType(header.dtype)
    Py_DECREF(<object><PyObject*>dtype)                   # there is one of each for ever
    return cnp.PyArray_DESCR(array) == dtype


cdef ndarray copied(ndarray array, ndarray vacant=None):
    """Copy a plain array into memory of its own, in its order; padding too where it is contiguous.

    Others arrive in C order. NumPy's own copy leaves the padding of structures undefined. Where `vacant` fits, the copy
    goes there.
    """
    cdef Header header
    cdef ndarray ours = vacant
    describe(array, &header)
    if ours is None or not fits(ours, &header, <int64_t*>cnp.PyArray_DIMS(array)):
        ours = empty(&header, <int64_t*>cnp.PyArray_DIMS(array), <object>cnp.PyArray_DESCR(array))
    if cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array):
        memcpy(cnp.PyArray_DATA(ours), cnp.PyArray_DATA(array), header.nbytes)
    else:
        cnp.PyArray_CopyInto(ours, array)
    return ours


cdef ndarray empty_bytes(size_t nbytes):
    """Make a one-dimensional array of bytes, from the pool where it is large."""
    cdef Header header
    cdef int64_t shape = nbytes
    header.flags = 0
    header.dtype = cnp.NPY_UINT8
    header.ndim = 1
    header.nbytes = nbytes
    return empty(&header, &shape, None)
