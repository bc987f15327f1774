"""The ends of channels, the processors between them, and the epoch that fires them.

Rule 1: a channel carries one value an epoch; `(epoch, key)` names it, so a duplicate cannot be taken for another.
Rule 2: the processors of one task fire one at a time, in the order composed.
Rule 3: `get` and `put` work only inside the `compute` of the channel's own processor.

Nothing here knows MPI: values leave by a `Port` and come in by a `Pump`.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
cimport numpy as cnp
from numpy cimport ndarray

from taskgraph._native.clock cimport since_1970_ns
from taskgraph._native.message cimport copied, is_forsaken, is_plain

import os

from taskgraph import trace
from taskgraph.errors import CannotPickle, GraphError, UsageError

cnp.import_array()

cdef int forks = 0          # that lead from the first process of the program to this one


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef class Port:
    cpdef int send(self, uint64_t channel, uint64_t epoch, object value, bint copy) except -1:
        """Take a value to the rank at the other end: an exact, plain ndarray, or any other object."""
        raise NotImplementedError


cdef class Pump:
    cpdef int pump(self) except -1:
        """Wait until something came in and was delivered; return how many messages that were."""
        raise NotImplementedError

    cpdef int poll(self) except -1:
        """Deliver what is there, without waiting, where it is time to look again."""
        raise NotImplementedError

    cpdef int drain(self) except -1:
        """Deliver all that is there, without waiting; return how many messages that were."""
        raise NotImplementedError

    cpdef int send_control(self, int peer, uint64_t topic, uint64_t epoch, bytes data) except -1:
        """Send bytes to the worker on another rank, in order with everything else sent there."""
        raise NotImplementedError

    cpdef int send_copy(self, int peer, list frames) except -1:
        """Send a copy of a snapshot: buffers of bytes, which must not change while it is wanted."""
        raise NotImplementedError


cdef class InboundChannel:
    """The receiving end of a channel, as a processor sees it.

    Attributes
    ----------
    task : int
        The task at the other end.
    tag : str or int
        The user's name of the channel.
    """

    def __init__(self, Epoch epoch, id, uint64_t key):
        self.epoch = epoch
        self.id = id
        self.task = id.source
        self.tag = id.tag
        self.key = key

    def get(self):
        """Return this epoch's value.

        Returns
        -------
        object
            What the other task put: same dtype, shape and bytes. An array is the receiver's own: writable, aliasing
            nothing, its to keep. A second call gives the same object.

        Raises
        ------
        GraphError
            Called outside the `compute` of the channel's processor.
        """
        if self.processor is None or self.processor is not self.epoch.running:
            raise misplaced("get", self.id, self.processor, self.epoch)
        return self.value

    cdef int let_go(self) except -1:
        """Forget the value. Its array is for the next one, where nobody else has it."""
        cdef object value = self.value
        self.value = None
        if type(value) is ndarray and is_forsaken(<ndarray>value):
            self.vacant = <ndarray>value
        return 0

    def __repr__(self):
        return f"<in channel {self.id}>"


cdef class OutboundChannel:
    """The sending end of a channel, as a processor sees it.

    Attributes
    ----------
    task : int
        The task at the other end.
    tag : str or int
        The user's name of the channel.
    """

    def __init__(self, Epoch epoch, id, uint64_t key):
        self.epoch = epoch
        self.id = id
        self.task = id.destination
        self.tag = id.tag
        self.key = key
        self.last_put = -1

    def put(self, value, copy=None):
        """Send this epoch's one value to the task at the other end.

        Parameters
        ----------
        value
            Any array; dtype, shape and bytes arrive as they are. What is small, what goes to a task of the same rank
            and memory of a protected array is copied; any other large array is borrowed: it is read-only until the
            epoch ends (views made before are yours to mind). Every other object keeps its type through pickle 5.
        copy : bool, optional
            True: never borrow.

        Raises
        ------
        GraphError
            A second value in one epoch, which ends the job even if it is caught; a call outside the `compute` of the
            channel's processor; a memoryview, or an object that cannot be pickled.
        """
        cdef Epoch epoch = self.epoch
        if self.processor is None or self.processor is not epoch.running:
            raise misplaced("put", self.id, self.processor, epoch)
        if epoch.forks != forks:
            raise forked()
        if self.last_put == epoch.number:
            epoch.mistake = self.wrong(
                f"was put a second value in epoch {epoch.number}: it carries one an epoch"
            )
            raise epoch.mistake
        if type(value) is not ndarray:
            if isinstance(value, memoryview):
                raise self.wrong("was put a memoryview, which has no type of its own to arrive as: "
                                 "put numpy.asarray(view), or bytes(view)")
            try:
                self.take(value, copy)
            except CannotPickle as error:
                raise self.wrong(f"was put what cannot be pickled: {error}") from error.__cause__
        else:
            self.take(value, copy)
        self.last_put = epoch.number

    cdef int take(self, value, copy) except -1:
        """Send a value to another rank, or deliver a copy of it here."""
        cdef Epoch epoch = self.epoch
        if self.port is not None:
            self.port.send(self.key, epoch.number, value, copy is not None and bool(copy))
            if epoch.hook is not None:
                epoch.hook("send.put", None)
        else:
            epoch.deliver(self.key, epoch.number, own_copy(value, epoch.codec, epoch.take_vacant(self.key)))
        return 0

    cdef object wrong(self, str what):
        """Say what is wrong with a put."""
        return GraphError(f"channel {self.id} {what}",
                          task=self.processor.task, epoch=self.epoch.number, channel=self.id)

    def __repr__(self):
        return f"<out channel {self.id}>"


cpdef object own_copy(object value, object codec, ndarray vacant=None):
    """Copy a value for a task of the same process, into `vacant` where it fits; nothing of it is shared afterwards."""
    if type(value) is ndarray and is_plain(<ndarray>value):
        return copied(<ndarray>value, vacant)
    return codec.copy(value)


cdef object misplaced(str call, id, Processor processor, Epoch epoch):
    """Say why a `get` or `put` is refused."""
    if processor is None:
        why = f", which no processor of epoch {epoch.number} has: compose it first"
    elif epoch.running is None:
        why = " outside compute: channels carry values only while a processor computes"
    else:
        why = (f" by processor {epoch.running.index} of task {epoch.running.task}: "
               f"it belongs to processor {processor.index} of task {processor.task}")
    return GraphError(f"{call} on channel {id}{why}", channel=id)


cdef object forked():
    return UsageError("a process that was forked in compute is no rank: end it there, with os._exit")


cdef class Processor:
    """One firing an epoch: user compute with its in and out channels."""

    def __init__(self, task, int index, object compute, tuple ins, tuple outs):
        self.task = task
        self.index = index
        self.compute = compute
        self.ins = ins
        self.outs = outs

    def __repr__(self):
        return f"<processor {self.index} of task {self.task}>"


cdef class Epoch:
    """Where this rank is: the number of the epoch, its processors, and the values that have come.

    Parameters
    ----------
    codec
        Has `copy(value)`, for objects between tasks of this rank.
    transport
        Brings values of other ranks; None in a job of one rank.
    """

    def __init__(self, object codec, Pump transport=None):
        self.codec = codec
        self.transport = transport
        self.number = self.entered = -1
        self.forks = forks
        self.tasks = []
        self.inbound = {}
        self.early = {}
        self.mark = &self.unread
        self.index()

    def __dealloc__(self):
        free(self.places)

    def mark_in(self, int64_t[::1] words not None):
        """Say in these words, from now on, in which epoch this rank is, of which task code runs, and since when."""
        if words.shape[0] < <Py_ssize_t>(sizeof(Mark) // sizeof(int64_t)):
            raise ValueError(f"{words.shape[0]} words are too few")
        self.marked = words
        self.mark = <Mark*>&words[0]

    @property
    def caller(self):
        return self.calling

    @caller.setter
    def caller(self, task):
        self.mark.working = 0 if task is None else <int64_t>task + 1
        self.calling = task

    def enter(self, int64_t number):
        """Take that this rank is in epoch `number` from now on, whose graph is not composed yet."""
        self.entered = number
        self.mark.epoch = number
        self.mark.entered_ns = since_1970_ns()

    def attach(self, Pump transport):
        """Set the transport, once."""
        self.transport = transport

    def connect(self, list tasks, way):
        """Take the processors of every task of this rank, in the order composed, from the next epoch on.

        Parameters
        ----------
        tasks : list of list of Processor
            By task.
        way : callable
            Called with a task id: makes ready for what comes from there, and returns the `Port` to it; None: the task
            is on this rank. It is asked anew each time, since tasks move: ends know channels, not ranks.
        """
        cdef Processor processor
        cdef InboundChannel inbound
        cdef OutboundChannel outbound
        self.release()
        for processors in tasks:
            for processor in processors:
                for inbound in processor.ins:
                    way(inbound.task)
                    inbound.processor = processor
                    self.inbound[inbound.key] = inbound
                for outbound in processor.outs:
                    outbound.port = way(outbound.task)
                    outbound.processor = processor
        self.tasks = tasks
        self.index()

    cdef int index(self) except -1:
        """Lay the in channels out by their keys, which are hashes already."""
        cdef InboundChannel inbound
        cdef uint64_t size = 8, at
        free(self.places)
        while size < 2 * <uint64_t>len(self.inbound):
            size *= 2
        self.mask = size - 1
        self.places = <Place*>calloc(size, sizeof(Place))
        if self.places == NULL:
            raise MemoryError
        for inbound in self.inbound.values():
            at = inbound.key & self.mask
            while self.places[at].inbound != NULL:
                at = (at + 1) & self.mask
            self.places[at].key = inbound.key
            self.places[at].inbound = <PyObject*>inbound
        return 0

    cdef inline InboundChannel find(self, uint64_t key):
        cdef uint64_t at = key & self.mask
        while self.places[at].inbound != NULL:
            if self.places[at].key == key:
                return <InboundChannel>self.places[at].inbound
            at = (at + 1) & self.mask
        return None

    cdef ndarray take_vacant(self, uint64_t key):
        """Return an array that a channel had before and that nobody has any more, or None."""
        cdef InboundChannel inbound = self.find(key)
        cdef ndarray vacant = None
        if inbound is not None:
            vacant, inbound.vacant = inbound.vacant, None
        return vacant

    cdef int release(self) except -1:
        """Let go of the processors of the last graph: their channels refuse work from now on."""
        cdef Processor processor
        cdef InboundChannel inbound
        cdef OutboundChannel outbound
        for processors in self.tasks:
            for processor in processors:
                for inbound in processor.ins:
                    inbound.processor = None
                    inbound.value = inbound.vacant = None
                for outbound in processor.outs:
                    outbound.processor = None
        self.inbound = {}
        return self.index()

    def begin(self, int64_t number):
        """Open epoch `number`: no processor has fired, and only early values have come."""
        cdef Processor processor
        cdef InboundChannel inbound
        cdef OutboundChannel outbound
        self.number = number
        self.hook = trace.hook
        self.running = self.mistake = None
        for processors in self.tasks:
            for processor in processors:
                processor.missing = <int>len(processor.ins)
                for inbound in processor.ins:
                    inbound.arrived = False
                    inbound.value = None
                for outbound in processor.outs:
                    outbound.last_put = -1
        if self.early:
            early, self.early = self.early, {}
            for (key, epoch), value in early.items():
                self.deliver(key, epoch, value)

    cdef int deliver(self, uint64_t key, int64_t epoch, object value) except -1:
        """Hand a value to its channel, or keep it for its epoch. One that has come already is dropped."""
        cdef InboundChannel inbound
        if epoch == self.number:
            inbound = self.find(key)
            if inbound is not None:
                if not inbound.arrived:
                    inbound.value = value
                    inbound.arrived = True
                    inbound.processor.missing -= 1
                    self.arrivals += 1
                return 0
        if epoch >= self.number:
            self.early[key, epoch] = value
        return 0

    def accept(self, uint64_t key, int64_t epoch, object value):
        """Deliver a value that came by a transport written in Python."""
        self.deliver(key, epoch, value)

    def awaited(self):
        """Return the in channels that keep processors from firing, each task's next one only."""
        cdef Processor processor
        cdef InboundChannel inbound
        waiting = []
        for processors in self.tasks:
            for processor in processors:
                if processor.missing > 0:
                    for inbound in processor.ins:  # no generator: in there the type would not be known
                        if not inbound.arrived:
                            waiting.append(inbound.id)
                    break
        return waiting

    def run(self):
        """Fire every processor of this rank.

        Raises
        ------
        GraphError
            A processor returned without a value in each of its out channels, or no value can come any more.
        EpochAborted
            From the transport, while waiting.
        """
        cdef list positions = [0] * len(self.tasks)
        cdef list processors
        cdef Processor processor
        cdef Py_ssize_t i, at, left = 0
        cdef bint fired
        for processors in self.tasks:
            left += len(processors)
        while left:
            fired = False
            for i in range(len(self.tasks)):
                processors = <list>self.tasks[i]
                at = positions[i]
                while at < len(processors):
                    processor = <Processor>processors[at]
                    if processor.missing:
                        break
                    if fired and self.transport is not None:
                        self.transport.poll()       # what others sent moves on while this rank has work
                    self.fire(processor)
                    at += 1
                    left -= 1
                    fired = True
                positions[i] = at
            if left and not fired:
                if self.transport is None:
                    raise GraphError(f"epoch {self.number} cannot go on: nobody will put {self.awaited()[0]}",
                                     epoch=self.number, channel=self.awaited()[0])
                self.transport.pump()

    cdef int fire(self, Processor processor) except -1:
        cdef InboundChannel inbound
        cdef OutboundChannel outbound
        self.running = processor
        self.mark.working = <int64_t>processor.task + 1
        try:
            if self.hook is not None:
                self.hook("compute.begin", None)
            processor.compute(processor.ins, processor.outs)
            if self.hook is not None:
                self.hook("compute.end", None)
        finally:
            self.mark.working = 0
        if self.mistake is not None:        # which user code has caught
            raise self.mistake
        if self.forks != forks:
            raise forked()
        for inbound in processor.ins:
            inbound.let_go()
        for outbound in processor.outs:
            if outbound.last_put != self.number:
                raise GraphError(
                    f"processor {processor.index} of task {processor.task} returned without a value in its out channel "
                    f"{outbound.id}: every out channel gets one value an epoch",
                    task=processor.task, epoch=self.number, channel=outbound.id,
                )
        self.running = None
        return 0

    def close(self):
        """Let go of every value and processor; channels refuse work from now on."""
        self.release()
        self.tasks = []
        self.early = {}
        self.running = self.mistake = None
        self.number = -1    # the next to begin may be an older one, and a value of it may come before
