"""What torch's dispatch does not show of a forward pass: custom functions, and other threads.

Both replace a method of torch's or Python's while a model is recorded. The replacement does the
usual thing in every thread that does not run the model.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextlib import contextmanager
from multiprocessing.pool import Pool, ThreadPool
from typing import TYPE_CHECKING, Any

from torch.autograd.function import _SingleLevelFunction

if TYPE_CHECKING:
    from deconv1d.record.recorder import Recorder


GIVE = ("apply_async", "_map_async", "imap", "imap_unordered")
"""By these a pool of multiprocessing is given work; its other methods call them."""


@contextmanager
def custom_functions(recorder: Recorder) -> Iterator[None]:
    """Tells the recorder of each call of a `torch.autograd.Function`.

    `Function.apply` calls its parent's. That is replaced, since models hold `F.apply` itself.
    """

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        # Looked up behind `_SingleLevelFunction`, which holds this very replacement.
        run = super(_SingleLevelFunction, cls).apply
        if recorder.records_here():
            return recorder.custom_function(cls, run, args, kwargs)
        return run(*args, **kwargs)

    _SingleLevelFunction.apply = classmethod(apply)  # type: ignore[attr-defined]  # found first
    try:
        yield
    finally:
        del _SingleLevelFunction.apply  # type: ignore[attr-defined]  # the parent's is found again


@contextmanager
def threads(recorder: Recorder) -> Iterator[None]:
    """Records work that the model gives to thread pools and to threads that it starts.

    Work that it hands to a thread by a queue of its own cannot be followed.
    """
    submit, start = ThreadPoolExecutor.submit, threading.Thread.start

    def submit_recorded(
        pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        # Asked in the thread that submits: work of other threads goes to the same pool unchanged.
        here = recorder.records_here()
        if not here:
            return submit(pool, function, *args, **kwargs)
        future = submit(pool, recorder.elsewhere(function), *args, **kwargs)
        add = future.add_done_callback  # which run in the pool's thread, after the function
        future.add_done_callback = lambda call: add(recorder.elsewhere(call))  # type: ignore[method-assign,assignment]  # of this one
        return future

    def start_recorded(thread: Any) -> None:
        # A pool's worker serves everyone who submits, also after this forward pass. Its tasks are
        # recorded one by one in `submit_recorded`.
        works_for_a_pool = getattr(thread, "_target", None) is pools._worker
        if recorder.records_here() and not works_for_a_pool:
            thread.run = recorder.elsewhere(thread.run)
        start(thread)

    def begin_recorded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        here = recorder.records_here()
        return begin(recorder.elsewhere(function) if here else function, *args, **kwargs)

    def given_recorded(give: Callable[..., Any]) -> Callable[..., Any]:
        def run(pool: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            here = recorder.records_here()
            return give(pool, recorder.elsewhere(function) if here else function, *args, **kwargs)

        return run

    begin = _thread.start_new_thread
    _thread.start_new_thread = begin_recorded  # put back below
    for name in GIVE:
        setattr(ThreadPool, name, given_recorded(getattr(Pool, name)))
    ThreadPoolExecutor.submit = submit_recorded  # type: ignore[method-assign]  # put back below
    threading.Thread.start = start_recorded  # type: ignore[method-assign,assignment]  # put back below
    try:
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]  # as it was
        threading.Thread.start = start  # type: ignore[method-assign]  # as it was
        _thread.start_new_thread = begin
        for name in GIVE:
            if name in vars(ThreadPool):
                delattr(ThreadPool, name)  # its parent's is found again
