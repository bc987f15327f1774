"""Memory of others, pinned while it is in use without the GIL."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
cimport numpy as cnp
from numpy cimport ndarray

cnp.import_array()


@cython.final
cdef class Loan:
    """Pins memory for as long as this object lives: of contiguous arrays, in their own order, and of bytes.

    Raises
    ------
    ValueError
        An array is not contiguous, or not writable where that is needed.
    """

    def __cinit__(self, things, bint writable=False):
        cdef Py_ssize_t i
        self.things = list(things)
        self.count = len(self.things)
        self.spans = <Span*>calloc(self.count + 1, sizeof(Span))
        self.views = <Py_buffer*>calloc(self.count + 1, sizeof(Py_buffer))
        if self.spans == NULL or self.views == NULL:
            raise MemoryError
        for i in range(self.count):
            self.pin(i, self.things[i], writable)

    cdef int pin(self, Py_ssize_t i, object thing, bint writable) except -1:
        cdef Py_buffer* view = &self.views[self.num_views]
        cdef ndarray array
        if isinstance(thing, ndarray):          # not by its buffer: dates, for one, have none
            array = thing
            if not (cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)) or (
                writable and not cnp.PyArray_ISWRITEABLE(array)
            ):
                raise ValueError(f"an array of shape {thing.shape} that is not contiguous{' and writable' * writable}")
            self.spans[i].origin = <char*>cnp.PyArray_DATA(array)
            self.spans[i].nbytes = cnp.PyArray_NBYTES(array)
            return 0
        PyObject_GetBuffer(thing, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.num_views += 1
        self.spans[i].origin = <char*>view.buf
        self.spans[i].nbytes = view.len
        return 0

    cdef bint is_still(self) noexcept:
        """Tell whether every array still lies where it lay: nothing keeps one from being resized."""
        cdef Py_ssize_t i
        cdef ndarray array
        for i in range(self.count):
            if isinstance(self.things[i], ndarray):
                array = self.things[i]
                if <char*>cnp.PyArray_DATA(array) != self.spans[i].origin or \
                        <uint64_t>cnp.PyArray_NBYTES(array) != self.spans[i].nbytes:
                    return False
        return True

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.num_views):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.spans)
