"""Several threads at once: the same model, models that share layers, and a plain forward pass."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deconv1d import RULES, Rule, Sonifier
from deconv1d.record import capture, unchanged

PATIENCE = 0.5
"""Seconds to wait for another thread that may be made to wait for this one."""


@pytest.fixture
def x():
    return torch.randn(2, 1, 40, generator=torch.manual_seed(1))


@pytest.fixture
def eager_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 4, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3))


def heard(model, x, layer="3"):
    return Sonifier(model).sonify(x, layer=layer, channel=[0, 2]).raw


def in_parallel(*tasks):
    """The results of functions that run in a thread each."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


@pytest.mark.usefixtures("eager_switching")
def test_the_same_model_another_one_and_a_plain_run(x):
    model, other = network(), network()
    expected, plain, done = heard(network(), x), network()(x), threading.Event()

    def sonify(which):
        return [heard(which, x) for _ in range(30)]

    def run():
        outputs = []
        while not done.is_set():
            outputs.append(model(x))
        return outputs

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            found = in_parallel(*(lambda m=m: sonify(m) for m in (model, model, other)))
        finally:
            done.set()
    assert all(torch.equal(raw, expected) for raws in found for raw in raws)
    assert all(torch.equal(output, plain) for output in running.result())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- visits that overlap for certain -------------------------------------------------------------


class Meeting(nn.Module):
    """Says that a forward pass is on, and waits for something; in one thread alone."""

    def __init__(self):
        super().__init__()
        self.reached, self.go_on, self.thread = threading.Event(), threading.Event(), None

    def forward(self, x):
        if threading.get_ident() == self.thread:
            self.reached.set()
            self.go_on.wait(PATIENCE)
        return x + 0


def overlapping(first, second, x, layer):
    """Sonifies by two models: the second enters before the first leaves, and leaves after it."""
    one, two = first[0], second[0]
    one.go_on = two.reached

    def visit(model, meeting):
        meeting.thread = threading.get_ident()
        return heard(model, x, layer)

    def begin():
        raw = visit(first, one)
        two.go_on.set()
        return raw

    def follow():
        one.reached.wait()
        return visit(second, two)

    return in_parallel(begin, follow)


def test_a_plain_run_works_at_every_line_of_a_visit(x):
    model, right = network(), {}
    plain, visit = model(x), (unchanged.__file__, capture.__file__)

    def trace(frame, event, arg):
        if frame.f_code.co_filename not in visit:
            return None
        if event == "line":
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            right[line] = torch.equal(beside(run), plain) and right.get(line, True)
        return trace

    def run():
        try:
            return model(x)
        except AttributeError:
            return torch.zeros(())

    submit = ThreadPoolExecutor.submit  # the pool is ours: its work is none of the model's

    def beside(task):
        return submit(pool, task).result()

    before = sys.gettrace()
    with ThreadPoolExecutor(1) as pool:
        sys.settrace(trace)
        try:
            heard(model, x)
        finally:
            sys.settrace(before)
    assert len(right) > 50
    assert [line for line in right if not right[line]] == []


class Noise(nn.Module):
    def forward(self, x):
        return x + 0 * torch.rand(())


def test_overlapping_visits_leave_the_process_as_it_was(x):
    models = [nn.Sequential(Meeting(), Noise(), nn.Conv1d(1, 4, 5)) for _ in range(2)]
    random, stance = torch.get_rng_state(), torch._dynamo.eval_frame._stance
    try:
        overlapping(*models, x, "2")
        assert torch.backends.mha.get_fastpath_enabled()
        assert torch._dynamo.eval_frame._stance == stance
        assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        torch.compiler.set_stance(stance.stance)


def test_overlapping_visits_of_models_that_share_layers(x):
    shared = nn.Sequential(nn.Conv1d(1, 4, 5), nn.Dropout(), nn.Conv1d(4, 3, 3))
    models = [nn.Sequential(Meeting(), shared) for _ in range(2)]
    alone = heard(nn.Sequential(nn.Identity(), shared), x, "1.2")
    for found in overlapping(*models, x, "1.2"):
        assert torch.equal(found, alone)
    assert all(module.training for module in shared.modules())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in shared.modules()
    )


def test_a_plain_run_during_a_visit_is_none_of_its_business(x):
    model, meeting = network(), Meeting()
    visited = nn.Sequential(meeting, *model)

    def visit():
        meeting.thread = threading.get_ident()
        return Sonifier(visited).layers(x), heard(visited, x, "4")

    def run():
        meeting.reached.wait()
        return [visited(x) for _ in range(3)]

    (table, found), outputs = in_parallel(visit, run)
    assert [row.calls for row in table] == [1] * 5
    assert torch.equal(found, heard(network(), x))
    assert all(torch.equal(output, model(x)) for output in outputs)


def test_the_mirror_runs_outside_the_models_lock(x):
    model = network()

    def meanwhile(signal):
        visit = threading.Thread(target=heard, args=(model, x), daemon=True)
        visit.start()
        visit.join(10)
        assert not visit.is_alive()
        return F.relu(signal)

    def carry_back(op, signal, emit):
        yield op["self"], emit(meanwhile, signal)

    rules = {**RULES, torch.ops.aten.relu: Rule("rectify", carry_back, block=True)}
    found = Sonifier(model, rules=rules).sonify(x, layer="3", channel=2).raw
    assert torch.equal(found, heard(model, x)[1])


# --- layers that run in another thread ------------------------------------------------------------


BEGUN, ENDED = [], []
"""Of the work of `InAnotherThread`: kept outside of the model, which is put back after a visit."""


class InAnotherThread(nn.Module):
    """Both layers run in a worker; it is waited for, but not for ever."""

    def __init__(self, give):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.give = nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 3), give

    def forward(self, x):
        def work(h):
            BEGUN.append(self)
            y = self.b(self.a(h).relu())
            ENDED.append(self)
            return y

        return self.give(work, x) * 2


def by_a_pool(work, x):
    with ThreadPool(1) as pool:
        return pool.apply_async(work, (x,)).get(timeout=60)


def by_an_executor(work, x):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, x).result(timeout=60)


def by_a_thread(work, x):
    found = []
    thread = threading.Thread(target=lambda: found.append(work(x)))
    thread.start()
    thread.join(60)
    return found[0]


@pytest.mark.parametrize("give", [by_a_pool, by_an_executor, by_a_thread])
@pytest.mark.parametrize("tap", ["block", "output"])
def test_a_layer_that_is_complete_in_a_worker_does_not_end_the_worker(give, tap, capfd):
    """The model is stopped in its own thread: a pool would lose its worker and wait for it."""
    BEGUN.clear()
    ENDED.clear()
    x = torch.randn(1, 1, 40, generator=torch.manual_seed(1))
    found = Sonifier(InAnotherThread(give).eval()).sonify(x, layer="a", channel=1, tap=tap)
    # What the model would wait for: once the map is there, its own thread alone is stopped.
    assert 0 < len(BEGUN) == len(ENDED)
    here = InAnotherThread(lambda work, x: work(x)).eval()
    expected = Sonifier(here).sonify(x, layer="a", channel=1, tap=tap)
    torch.testing.assert_close(found.raw, expected.raw)
    assert "Stop" not in capfd.readouterr().err
