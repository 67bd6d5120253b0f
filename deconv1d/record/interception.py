"""What torch's dispatch does not show of a forward pass: custom functions, and other threads.

Both replace a method of torch's or Python's while a model is recorded. The replacement does the
usual thing in every thread that does not run the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextlib import contextmanager
from typing import Any

from torch.autograd.function import _SingleLevelFunction

from deconv1d.record.recorder import Recorder


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
    """Records work that the model gives to thread pools and to threads that it starts."""
    submit, start = ThreadPoolExecutor.submit, threading.Thread.start

    def submit_recorded(
        pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        # Asked in the thread that submits: work of other threads goes to the same pool unchanged.
        here = recorder.records_here()
        return submit(pool, recorder.elsewhere(function) if here else function, *args, **kwargs)

    def start_recorded(thread: Any) -> None:
        # A pool's worker serves everyone who submits, also after this forward pass. Its tasks are
        # recorded one by one in `submit_recorded`.
        works_for_a_pool = getattr(thread, "_target", None) is pools._worker
        if recorder.records_here() and not works_for_a_pool:
            thread.run = recorder.elsewhere(thread.run)
        start(thread)

    ThreadPoolExecutor.submit = submit_recorded  # type: ignore[method-assign]  # put back below
    threading.Thread.start = start_recorded  # type: ignore[method-assign,assignment]  # put back below
    try:
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]  # as it was
        threading.Thread.start = start  # type: ignore[method-assign]  # as it was
