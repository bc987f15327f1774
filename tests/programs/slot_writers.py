"""Writers of snapshots that are killed, stopped and fenced while a reader looks on: run by `test_slot_kills.py`.

Usage: slot_writers.py SCENARIO DIRECTORY SECONDS SEED [repeat]. Prints one JSON line of counts; what is wrong is an
assertion. With `repeat` the state is arrays only, and snapshots are repeated as in most epochs of a job.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taskgraph._native import slots as native
from taskgraph.backends.slot_delta import Snapshot
from taskgraph.backends.slot_file import Form
from taskgraph.backends.slot_holder import Holder
from taskgraph.backends.slots import Refusal, SlotDir

PR_SET_PDEATHSIG = 1
NUMBERS = 20_000  # of the state: 160 kB
REPEATS = sys.argv[5:] == ["repeat"]
STATE = np.zeros(NUMBERS)
FORM = Form.of({"state": STATE} if REPEATS else {"state": STATE, "text": None})


class Words:
    """A few integers that parent and children share."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, 4096)).cast("q")

    def __getitem__(self, at: int) -> int:
        return self._memory[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._memory[at] = value


def fork(child: Callable[[], None]) -> int:
    """Run a function in a child that ends with its parent, also when it is stopped."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        child()
        status = 0
    finally:
        os._exit(status)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def content(boundary: int, generation: int) -> tuple[float, bytes]:
    return float(boundary * 1_000_003 + generation), struct.pack("<qq", boundary, generation) * (boundary * 37 % 3000)


def write(holder: Holder, boundary: int, generation: int) -> Snapshot | Refusal | None:
    """Write a snapshot. None: it was repeated."""
    number, text = content(boundary, generation)
    STATE[:] = number
    STATE[::7] = 1  # so that some blocks stay the same, and some do not
    STATE[: NUMBERS // 2] = 2
    if not REPEATS:
        return holder.write(boundary, generation, [STATE, text])
    if holder.repeat(boundary, generation, -1):
        return None
    done = holder.write(boundary, generation, [STATE])
    holder.prepare([STATE])
    return done


def check(slots: SlotDir) -> int:
    """Read whatever is whole: it is right to the last byte, or freed meanwhile. Return how many there were."""
    seen = 0
    for held in slots.holdings():
        state = np.empty(NUMBERS)
        strings = slots.read(held, [state])
        if strings is Refusal.GONE:
            continue
        assert not isinstance(strings, Refusal), (held, strings)
        number, text = content(held.boundary, held.generation)
        expected = np.full(NUMBERS, number)
        expected[::7] = 1
        expected[: NUMBERS // 2] = 2
        assert np.array_equal(state, expected), held
        assert strings == ([] if REPEATS else [text]), held
        seen += 1
    return seen


def keep_writing(path: Path, generation: int) -> None:
    """Go on from the newest boundary, with commits that free all but the last two."""
    slots = SlotDir.open(path)
    holder = Holder(slots, 0, FORM)
    boundary = max((held.boundary for held in slots.holdings()), default=0)
    while True:
        boundary += 1
        done = write(holder, boundary, generation)
        assert done is None or isinstance(done, Snapshot) or done is Refusal.FULL, done
        slots.free_below(boundary - 1, generation)


def killed(path: Path, seconds: float, chance: random.Random) -> dict[str, int]:
    """Kill writer after writer at any instruction; each takes over what the one before left."""
    slots = SlotDir.create(path, "run")
    kills = seen = newest = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kills += 1
        slots.raise_floor(kills)
        pid = fork(lambda generation=kills: keep_writing(path, generation))
        moment = time.monotonic() + chance.uniform(0.001, 0.02)
        while time.monotonic() < moment:
            seen += check(slots)
        end(pid)
        seen += check(slots)
        held = slots.holdings()
        assert len(held) <= 3, held
        boundaries = [each.boundary for each in held]
        assert max(boundaries, default=0) >= newest, "a snapshot that was whole is lost"
        newest = max(boundaries, default=0)
    files = len([name for name in os.listdir(path) if name.startswith("slot-")])
    assert files <= 3 + kills // 100, f"{files} slots after {kills} kills: their memory is not taken over"
    return {"kills": kills, "seen": seen, "newest": newest}


def write_until_fenced(path: Path, words: Words) -> None:
    slots = SlotDir.open(path)
    holder = Holder(slots, 0, FORM)
    boundary = 0
    while True:
        generation = words[0]
        boundary += 1
        refused = write(holder, boundary, generation) is Refusal.FENCED
        refused = slots.free_below(boundary - 1, generation) is Refusal.FENCED or refused
        if refused:
            words[1] = generation + 1
            while words[0] == generation:
                time.sleep(0)


def stopped(path: Path, seconds: float, chance: random.Random) -> dict[str, int]:
    """Stop a writer anywhere, raise the floor, let it go on: it changes nothing any more."""
    slots, words = SlotDir.create(path, "run"), Words()
    pid = fork(lambda: write_until_fenced(path, words))
    stops = seen = 0
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            time.sleep(chance.uniform(0, 0.003))
            os.kill(pid, signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
            generation = words[0] + 1
            slots.raise_floor(generation)
            final = slots.table.whole()
            seen += check(slots)
            os.kill(pid, signal.SIGCONT)
            while words[1] < generation:
                assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the writer ended"
                assert slots.table.whole() == final
            assert slots.table.whole() == final
            seen += check(slots)
            words[0] = generation
            stops += 1
    finally:
        end(pid)
    return {"stops": stops, "seen": seen}


def hammer(path: Path, words: Words, task: int) -> None:
    """Begin, complete and free in a loop, without any content, in the generation that is said to run."""
    slots = SlotDir.open(path)
    table = slots.table
    mine = [table.add(task, slots.owner) for _ in range(3)]
    for index in mine:
        table.settle(index)
    whole: list[tuple[int, int]] = []
    boundary = 0
    while True:
        generation = words[0]
        for index in mine:
            boundary += 1
            cycle = table.begin(index, generation)
            if cycle >= 0 and table.complete(index, cycle, generation, boundary, generation) == 0:
                whole.append((index, cycle))
                words[1 + task] += 1
        whole = [(index, cycle) for index, cycle in whole if table.free(index, cycle, generation) == native.FENCED]


def fenced(path: Path, seconds: float, chance: random.Random) -> dict[str, int]:
    """Raise the floor while others write: what is listed when that returns is final until they hear of it."""
    slots, words = SlotDir.create(path, "run", capacity=64), Words()
    table = slots.table
    pids = [fork(lambda task=task: hammer(path, words, task)) for task in range(2)]
    raises = seen = 0
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            written = words[1], words[2]
            while (words[1], words[2]) == written and time.monotonic() < until:
                time.sleep(0)  # they have heard of the generation
            for _ in range(chance.randrange(200)):
                pass
            raises += 1
            table.raise_floor(raises)
            final = table.whole()
            for _ in range(chance.randrange(1, 12)):
                assert table.whole() == final, raises
                if chance.random() < 0.1:
                    time.sleep(0)
            assert all(entry[4] < raises for entry in final)
            seen += len(final)
            words[0] = raises
    finally:
        for pid in pids:
            end(pid)
    return {"raises": raises, "seen": seen, "written": words[1] + words[2]}


if __name__ == "__main__":
    scenario = {"killed": killed, "stopped": stopped, "fenced": fenced}[sys.argv[1]]
    print(json.dumps(scenario(Path(sys.argv[2]), float(sys.argv[3]), random.Random(int(sys.argv[4])))))
