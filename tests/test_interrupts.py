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


def noting(files, seen):
    """A trace function that counts how often each instruction of some files runs."""

    def step(frame, event, argument):
        if event == "opcode":
            place = frame.f_code, frame.f_lasti
            seen[place] = seen.get(place, 0) + 1
        return step

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    return trace


def acting(code, instruction, time, act):
    """A trace function that acts before an instruction runs for the n-th time.

    Only the frames of its own function are followed: the others run at nearly full speed.
    """
    left = time

    def step(frame, event, argument):
        nonlocal left
        if event == "opcode" and frame.f_lasti == instruction:
            left -= 1
            if left == 0:
                act()
        return step

    def trace(frame, event, argument):
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    return trace


def interrupted_at(model, x, trace):
    """Whether a visit was interrupted."""
    try:
        with traced(trace):
            visit(model, x)
    except KeyboardInterrupt:
        return True
    return False


def instructions_of(model, x, files):
    """Each instruction of some files that a visit runs, and how often it does."""
    seen = {}
    assert not interrupted_at(model, x, noting(files, seen))
    return [(*place, times) for place, times in seen.items()]


def faults_at_instructions(model, x, places):
    """The instructions after whose interruption something was not as before."""
    before, interrupted = everything(model), 0
    for code, instruction, time in places:
        interrupted += interrupted_at(model, x, acting(code, instruction, time, ctrl_c))
        if differences := changed(before, everything(model)):
            return code.co_qualname, instruction, time, differences
    assert interrupted > 0
    return None


def test_ctrl_c_at_any_line(model, x):
    assert faults(model, x, ENTRY_AND_EXIT, ctrl_c, instructions=False, every=37) == []


def test_ctrl_c_at_every_97th_instruction(model, x):
    places = instructions_of(model, x, ENTRY_AND_EXIT)
    first = [(code, instruction, 1) for code, instruction, _ in places[::97]]
    assert faults_at_instructions(model, x, first) is None


@pytest.mark.slow
@pytest.mark.parametrize("time", ["first", "last"])
def test_ctrl_c_at_every_instruction(model, x, time):
    """Each the first time that it runs, and the last."""
    places = instructions_of(model, x, ENTRY_AND_EXIT)
    assert len(places) > 1000
    if time == "first":
        places = [(code, instruction, 1) for code, instruction, _ in places]
    assert faults_at_instructions(model, x, places) is None


@pytest.mark.parametrize("module", [unchanged, belongings])
def test_an_exception_at_any_line(model, x, module):
    """Raised where no signal could be: by a debugger, or from another thread."""
    assert faults(model, x, (module.__file__,), raised, instructions=False, every=7) == []


def test_ctrl_c_ends_the_wait_for_another_visit(model, x):
    before, taken, over = everything(model), threading.Event(), threading.Event()

    def hold():
        with FORWARD_LOCK:
            taken.set()
            over.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    taken.wait()
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            visit(model, x)
        assert not over.is_set()
    finally:
        over.set()
        other.join()
    assert changed(before, everything(model)) == []


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
