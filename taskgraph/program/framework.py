"""What a task may ask of the framework when it is set up: who it is, and state that survives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskgraph.errors import UsageError
from taskgraph.ids import TaskId


@dataclass(frozen=True, slots=True)
class Saved:
    """Protected state that is no array: how to turn it into bytes, and back."""

    save: Callable[[], bytes]
    load: Callable[[bytes], None]


class Framework:
    """Handed to `Task.init`, and the task's to keep.

    Attributes
    ----------
    task_id : int
        This task, 0..num_tasks-1.
    num_tasks : int
        Number of tasks of the job.
    is_primary : bool
        Whether this rank runs the task; False on its backups.
    logger : logging.Logger
        Named ``taskgraph.task.<id>``.
    """

    def __init__(self, task_id: TaskId, num_tasks: int, is_primary: bool, shutdown: Callable[[int], None]) -> None:
        self.task_id = task_id
        self.num_tasks = num_tasks
        self.is_primary = is_primary
        self.logger = logging.getLogger(f"taskgraph.task.{task_id}")
        self._shutdown = shutdown
        self._open = True
        self._state: dict[str, NDArray[Any] | Saved] = {}

    @overload
    def protect(self, name: str, array: ArrayLike) -> NDArray[Any]: ...
    @overload
    def protect(self, name: str, *, save: Callable[[], bytes], load: Callable[[bytes], None]) -> None: ...

    def protect(
        self,
        name: str,
        array: ArrayLike | None = None,
        *,
        save: Callable[[], bytes] | None = None,
        load: Callable[[bytes], None] | None = None,
    ) -> NDArray[Any] | None:
        """Make state survive failures. Call it in `init`.

        Parameters
        ----------
        name
            Name of the state, unique within the task.
        array
            Initial value. It is copied, in its own memory layout; the array returned is the state from then on: keep
            it, and write into it in place.
        save, load
            Instead of an array, for state that is not one or that changes size: `save()` returns bytes at a boundary,
            `load(bytes)` puts them back. Both may use only what is protected itself or set up by `init`.

        Returns
        -------
        numpy.ndarray or None
            The protected array; writable and contiguous. None for `save` and `load`.

        Raises
        ------
        UsageError
            A name given twice, an array of Python objects, an array that is more than its elements (masked, a
            matrix), or a call outside `init`.
        """
        self._check_name(name)
        if array is None:
            if not callable(save) or not callable(load):
                raise UsageError(f"protect({name!r}) needs an array, or both save= and load=")
            self._state[name] = Saved(save, load)
            return None
        if save is not None or load is not None:
            raise UsageError(f"protect({name!r}) was given an array and save= or load=: use one or the other")
        if isinstance(array, np.ndarray) and type(array) not in (np.ndarray, np.memmap, np.recarray):
            raise UsageError(
                f"protect({name!r}) was given a {type(array).__name__}, of which only the elements would be kept: "
                "protect numpy.asarray of it, and what else it has (a mask) by itself"
            )
        given = np.asarray(array)
        if given.dtype.hasobject:
            raise UsageError(
                f"protect({name!r}) was given an array of dtype {given.dtype}, which holds Python objects: "
                "use save= and load= for them"
            )
        column_major = given.flags.f_contiguous and not given.flags.c_contiguous
        state: NDArray[Any] = np.array(given, order="F" if column_major else "C", copy=True, subok=False)
        self._state[name] = state
        return state

    def shutdown(self, status: int = 0) -> None:
        """Make the epoch that runs now, or the first one, the last. See `Context.shutdown`."""
        self._shutdown(status)

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError(f"protect: name={name!r} is not a name: give a non-empty str")
        if not self._open:
            raise UsageError(
                f"protect({name!r}) was called after init: state is declared in init, so that a backup has it"
            )
        if name in self._state:
            raise UsageError(f"protect({name!r}) was called twice by task {self.task_id}: each name is protected once")

    def close_init(self) -> dict[str, NDArray[Any] | Saved]:
        """End `init`: return what was protected, in the order declared. For the framework."""
        self._open = False
        return self._state
