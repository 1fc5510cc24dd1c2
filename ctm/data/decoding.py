"""Reading and decoding the entries of a raw data set, in order, by as many processes as one likes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker

from ctm.data.datasets.reader import Decode, Entry, Problem, RawDataset, RawFile
from ctm.data.sample import Georeference, decode_image, encode_mask
from ctm.data.shards import TRUTH
from ctm.data.statistics import Moments, channel_moments
from ctm.errors import CtmError, DataError
from ctm.runtime.preemption import preemption_deferred
from ctm.runtime.storage import FileStat, Tree

__all__ = ["Decoded", "decode_entries"]

CHUNK_ENTRIES = 8
CHUNK_BYTES = 32_000_000
"""A chunk of entries, which a process works on at once, is closed by the entry that reaches either of them."""
CHUNKS_A_WORKER = 2
"""Chunks on their way at once, a process: one being worked on, one waiting."""


@dataclass(frozen=True)
class Decoded:
    """A good sample, ready to be stored.

    Attributes:
        key: see ``Sample``.
        members: its files by extension; empty where only a check was asked for.
        labels: image-level labels as mask values.
        size: height and width in pixels.
        with_truth: whether it has a mask.
        georeference: where it lies on Earth.
        notes: what was mended or passed over.
        moments: statistics of its scaled channels, where they were asked for.
    """

    key: str
    members: Mapping[str, bytes]
    labels: tuple[int, ...]
    size: tuple[int, int]
    with_truth: bool
    georeference: Georeference | None
    notes: tuple[str, ...]
    moments: Moments | None


@dataclass(frozen=True)
class _Recipe:
    """What a process must know to work on chunks; small, for it is sent to each of them."""

    tree: Tree
    decode: Decode
    channels: int
    scale: float
    keep: bool
    moments: bool


_Chunk = tuple[Sequence[Entry], Mapping[str, FileStat]]


def decode_entries(
    dataset: RawDataset,
    tree: Tree,
    entries: Sequence[Entry],
    *,
    workers: int,
    keep: bool = True,
    moments: bool = False,
) -> Iterator[Decoded | Problem]:
    """Reads, decodes and checks entries; what comes out, and its order, do not depend on the number of workers.

    Memory does not grow with the number of entries: a few chunks of them are under way at any time.

    Args:
        dataset: what the entries belong to.
        tree: where their files lie.
        entries: some entries of one of its splits.
        workers: processes that read and decode; with 0 or 1 this one does.
        keep: give the encoded bytes; without them only labels and findings come back.
        moments: give the statistics of the channels.

    Yields:
        A decoded sample, or what is wrong with it, for each entry in turn.

    Raises:
        StorageError: the files cannot be reached any more.
        CtmError: a worker was killed, most likely for lack of memory.
    """
    recipe = _Recipe(tree, dataset.decode, dataset.channels, dataset.scale, keep, moments)
    chunks = _chunks(entries, tree.files)
    if workers <= 1:
        for chunk in chunks:
            yield from _work(recipe, chunk)
        return
    # A fresh server process forks the workers: forking this one, with its threads and locks, can hang.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    _start_server()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(recipe,))
    try:
        waiting: deque[Future[list[Decoded | Problem]]] = deque()
        for chunk in chunks:
            with preemption_deferred():  # else a worker that is just being started would be left behind
                waiting.append(pool.submit(_work_in_worker, chunk))
            if len(waiting) >= CHUNKS_A_WORKER * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise CtmError(
            f"{tree.uri}: a worker process was killed while it decoded images, most likely for lack of memory; "
            "finished shards are kept: run the command again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_server() -> None:
    """Starts the server process with Ctrl-C blocked, for it and the workers: the process that feeds them ends them."""
    resource_tracker.ensure_running()  # would lift the block as it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _chunks(entries: Sequence[Entry], files: Mapping[str, FileStat]) -> Iterator[_Chunk]:
    chunk: list[Entry] = []
    wanted: dict[str, FileStat] = {}
    for entry in entries:
        chunk.append(entry)
        wanted |= {path: files[path] for path in entry.files.values()}
        if len(chunk) == CHUNK_ENTRIES or sum(stat.size for stat in wanted.values()) >= CHUNK_BYTES:
            yield chunk, wanted
            chunk, wanted = [], {}
    if chunk:
        yield chunk, wanted


_recipe: _Recipe
"""What this worker process works by; set once, when it starts."""


def _start_worker(recipe: _Recipe) -> None:
    global _recipe  # noqa: PLW0603 - sent once, not with every chunk: it may hold a connection
    _recipe = recipe
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when the process that feeds it has been killed; it would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work_in_worker(chunk: _Chunk) -> list[Decoded | Problem]:
    return list(_work(_recipe, chunk))


def _work(recipe: _Recipe, chunk: _Chunk) -> Iterator[Decoded | Problem]:
    entries, wanted = chunk
    contents = recipe.tree.read_all(wanted)
    for entry in entries:
        files = {role: RawFile(recipe.tree.place(path), contents[path]) for role, path in entry.files.items()}
        try:
            yield _decoded(recipe, entry, files)
        except DataError as error:
            yield Problem(next(iter(entry.files.values())), str(error))


def _decoded(recipe: _Recipe, entry: Entry, files: Mapping[str, RawFile]) -> Decoded:
    sample = recipe.decode(entry, files)
    members = {}
    if recipe.keep:
        members = {sample.extension: sample.image}
        if sample.mask is not None:
            members[TRUTH] = encode_mask(sample.mask)
    moments = None
    if recipe.moments:
        moments = channel_moments(decode_image(sample.image, sample.extension), recipe.scale)
    return Decoded(
        key=sample.key,
        members=members,
        labels=sample.labels,
        size=(sample.height, sample.width),
        with_truth=sample.mask is not None,
        georeference=sample.georeference,
        notes=sample.notes,
        moments=moments,
    )
