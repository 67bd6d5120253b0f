"""A visit that is interrupted, at any instruction of entering or leaving, leaves all as it was."""

import contextlib
import gc
import signal
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from untouched import changed, state_of, state_of_process

from deconv1d import Sonifier
from deconv1d.record import belongings, capture, interrupts, unchanged
from deconv1d.record.unchanged import FORWARD_LOCK

ENTRY_AND_EXIT = tuple(m.__file__ for m in (belongings, capture, interrupts, unchanged))


class Busy(nn.Module):
    """Writes, counts, draws and caches: there is something to put back."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(1, 3, 5), nn.BatchNorm1d(3)
        self.drop, self.end = nn.Dropout(), nn.Conv1d(3, 2, 3)
        self.register_buffer("memory", torch.zeros(3))
        self.calls, self.cache = 0, {"shapes": []}
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x):
        self.calls += 1
        self.cache["shapes"].append(x.shape)
        y = self.norm(self.conv(x))
        self.memory += y.mean((0, 2))
        y = y + 0.1 * torch.randn(y.shape, generator=self.generator)
        return self.end(self.drop(y) * self.memory[:, None])


def everything(model):
    lock_is_free = []
    thread = threading.Thread(
        target=lambda: lock_is_free.append(
            FORWARD_LOCK.acquire(blocking=False) and not FORWARD_LOCK.release()
        )
    )
    thread.start()
    thread.join()
    return {
        **state_of(model),
        **state_of_process(),
        "modes": _len_torch_dispatch_stack(),
        "excluded keys": str(torch._C._dispatch_tls_local_exclude_set()),
        "garbage collection": gc.isenabled(),
        "handler of Ctrl-C": signal.getsignal(signal.SIGINT),
        "lock is free": lock_is_free,
        "generator": model.generator.get_state().tolist(),
        "shapes": list(model.cache["shapes"]),
    }


class Interruption:
    """Does something at the n-th event (a line, or an instruction) in some files."""

    def __init__(self, files, number, act, instructions):
        self.files, self.number, self.act = files, number, act
        self.kind, self.seen = "opcode" if instructions else "line", 0

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = self.kind == "opcode"
        if event == self.kind:
            self.seen += 1
            if self.seen == self.number:
                self.act()
        return self


@contextlib.contextmanager
def traced(trace):
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def raised():
    raise KeyboardInterrupt


def visit(model, x):
    Sonifier(model).maps(x, layer="drop")


@pytest.fixture(autouse=True)
def _python_s_own_handler():
    """In a job that a shell runs in the background, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def x():
    return torch.randn(1, 1, 20, generator=torch.manual_seed(1))


@pytest.fixture
def model(x):
    model = Busy().train()
    visit(model, x)  # what is made once is there
    return model


def faults(model, x, files, act, instructions, every):
    """The events after which something was not as before."""
    whole = Interruption(files, -1, act, instructions)
    with traced(whole):
        visit(model, x)
    before, found, interrupted = everything(model), [], 0
    for number in range(1, whole.seen + 1, every):
        try:
            with traced(Interruption(files, number, act, instructions)):
                visit(model, x)
        except KeyboardInterrupt:
            interrupted += 1
        if differences := changed(before, everything(model)):
            found.append((number, differences))
            break
    assert interrupted > 0
    return found


def test_ctrl_c_at_any_line(model, x):
    assert faults(model, x, ENTRY_AND_EXIT, ctrl_c, instructions=False, every=37) == []


@pytest.mark.slow
def test_ctrl_c_at_any_instruction(model, x):
    assert faults(model, x, ENTRY_AND_EXIT, ctrl_c, instructions=True, every=1) == []


@pytest.mark.parametrize("module", [unchanged, belongings])
def test_an_exception_at_any_line(model, x, module):
    """Raised where no signal could be: by a debugger, or from another thread."""
    assert faults(model, x, (module.__file__,), raised, instructions=False, every=7) == []


def test_ctrl_c_in_the_model_is_not_late(x):
    class Long(Busy):
        def forward(self, x):
            ctrl_c()
            raise AssertionError("the model ran on")

    model = Long()
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        visit(model, x)
    assert changed(before, everything(model)) == []


def test_the_users_own_handler_is_asked(model, x):
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with traced(Interruption((unchanged.__file__,), 40, ctrl_c, False)):
            visit(model, x)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_visits_in_other_threads_set_no_handlers(model, x):
    thread = threading.Thread(target=visit, args=(model, x))
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    assert signal.getsignal(signal.SIGINT) is before
    thread.join()
