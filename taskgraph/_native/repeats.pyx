"""The `Context` of a task, which most of the time is asked what it was asked in the epoch before.

That is answered here. Whatever is not as it was then is left to `taskgraph.program.context`, where the rules stand.
"""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from types import FunctionType, MethodType

from taskgraph._native.channel cimport Processor

from taskgraph.program.context import Context


cdef class _Repeats:
    """The fields that `Context.__init__` sets, as C members, and its answers where they are known.

    A field that is named otherwise here is a second one.
    """

    cdef public object epoch
    cdef public object _rng
    cdef public object _varying
    cdef public bint _composing
    cdef public bint _changed
    cdef public Py_ssize_t _count
    cdef public Py_ssize_t _room
    cdef public list _processors
    cdef public dict _neighbors
    cdef public dict _inbound
    cdef public dict _outbound

    def neighbors(self, linkage):
        """Return the ids of the tasks that `linkage` links this one to, in this epoch."""
        known = self._neighbors.get(linkage)
        return known if known is not None else Context.neighbors(self, linkage)

    def inbound(self, task, tag):
        """Return the channel from a task, or the list of channels from several, in the order given."""
        known = answer(self._inbound, task, tag)
        return known if known is not None else Context.inbound(self, task, tag)

    def outbound(self, task, tag):
        """Return the channel to a task, or the list of channels to several, in the order given."""
        known = answer(self._outbound, task, tag)
        return known if known is not None else Context.outbound(self, task, tag)

    def compose(self, processor, ins=(), outs=()):
        """Add a processor to this epoch. It computes once, after the ones composed before it."""
        cdef Processor known
        if self._composing and self._count < len(self._processors) and (
            type(processor) is MethodType or type(processor) is FunctionType
        ):
            known = self._processors[self._count]
            if are(known.ins, ins) and are(known.outs, outs):
                known.compute = processor
                self._count += 1
                return
        Context.compose(self, processor, ins, outs)

    def begin(self, epoch):
        """Open the composition of an epoch. For the framework."""
        if self._varying or len(self._inbound) + len(self._outbound) > self._room:
            Context.begin(self, epoch)
            return
        self.epoch = epoch
        self._rng = None
        self._count = 0
        self._changed = False
        self._composing = True

    def finish(self):
        """Close the composition; return whether it differs from the one before. For the framework."""
        if self._changed or self._count < len(self._processors):
            return Context.finish(self)
        self._composing = False
        return False

    @property
    def is_idle(self):
        """Whether nothing was composed. For the framework."""
        return not self._processors


class QuickContext(_Repeats, Context):
    """The `Context` that tasks are handed: what was asked in the epoch before is answered in compiled code."""


cdef object answer(dict known, task, tag):
    """Return what was answered to this question before, or None."""
    cdef PyObject* found
    if (type(task) is not tuple and type(task) is not int) or (type(tag) is not str and type(tag) is not int):
        return None                     # what may have no hash
    try:
        found = PyDict_GetItemWithError(known, (task, tag))
    except TypeError:                   # nor has a tuple of such
        return None
    if found is NULL:
        return None
    return list(<object>found) if type(<object>found) is tuple else <object>found


cdef bint are(tuple known, channels) except -1:
    """Tell whether these are the channels of the epoch before."""
    cdef Py_ssize_t i, count
    if type(channels) is list:
        count = len(<list>channels)
        if count != len(known):
            return False
        for i in range(count):
            if (<list>channels)[i] is not known[i]:
                return False
        return True
    if type(channels) is tuple:
        count = len(<tuple>channels)
        if count != len(known):
            return False
        for i in range(count):
            if (<tuple>channels)[i] is not known[i]:
                return False
        return True
    return len(known) == 1 and known[0] is channels
