"""Recurrent layers with their gates held: what an unrolled loop of cells would carry back.

    LSTM    c = f * c + i * tanh(g)     f, i, o are sigmoids: held, as every gate
            h = o * tanh(c)             tanh passes, as everywhere in the table
    GRU     h = (1 - z) * n + z * h     z and r are held
            n = tanh(a + r * b)         a = W_in x, b = W_hn h
    RNN     h = tanh(W x + U h)

Of the stacked weights only the block of the candidate (g or n) then carries the signal: the other
blocks lead to gates. Gates are computed anew from the layer's input, step by step, since torch's
kernels do not return them.

Source: Arras, Montavon, Müller, Samek 2017 (signal-take-all: a gate takes no relevance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

States = tuple[Tensor, ...]
Gates = tuple[Tensor, ...]


@dataclass(frozen=True)
class Cell:
    """One step of a recurrent layer, forwards and back.

    Attributes:
        step: `step(a, b, states)` -> (new states, gates), where a and b are the stacked products of
            the step's input and of the last output.
        back: `back(signals, gates)` -> (the candidate's signal, what goes to the candidate's block
            of the hidden weights, the states' own signals), with a signal for each state.
        blocks: How many blocks the stacked weights have.
        candidate: Which of them leads to the candidate.
    """

    step: Callable[[Tensor, Tensor, States], tuple[States, Gates]]
    back: Callable[[States, Gates], tuple[Tensor, Tensor, States]]
    blocks: int
    candidate: int


def _lstm_step(a: Tensor, b: Tensor, states: States) -> tuple[States, Gates]:
    i, f, g, o = (a + b).chunk(4, -1)
    i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
    c = f * states[1] + i * g.tanh()
    return (o * c.tanh(), c), (i, f, o)


def _lstm_back(signals: States, gates: Gates) -> tuple[Tensor, Tensor, States]:
    i, f, o = gates
    to_cell = signals[1] + o * signals[0]
    candidate = i * to_cell
    return candidate, candidate, (torch.zeros_like(candidate), f * to_cell)


def _gru_step(a: Tensor, b: Tensor, states: States) -> tuple[States, Gates]:
    (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, -1), b.chunk(3, -1)
    r, z = (a_r + b_r).sigmoid(), (a_z + b_z).sigmoid()
    n = (a_n + r * b_n).tanh()
    return ((states[0] - n) * z + n,), (r, z)  # in torch's order, to the last bit


def _gru_back(signals: States, gates: Gates) -> tuple[Tensor, Tensor, States]:
    r, z = gates
    candidate = (1 - z) * signals[0]
    return candidate, r * candidate, (z * signals[0],)


def _tanh_step(a: Tensor, b: Tensor, states: States) -> tuple[States, Gates]:
    return ((a + b).tanh(),), ()


def _tanh_back(signals: States, gates: Gates) -> tuple[Tensor, Tensor, States]:
    return signals[0], signals[0], (torch.zeros_like(signals[0]),)


LSTM = Cell(_lstm_step, _lstm_back, blocks=4, candidate=2)
GRU = Cell(_gru_step, _gru_back, blocks=3, candidate=2)
RNN = Cell(_tanh_step, _tanh_back, blocks=1, candidate=0)


@dataclass(frozen=True)
class _Run:
    """One direction of one layer: its weights, the gates of each step, the order of its steps."""

    w_in: Tensor
    w_hidden: Tensor
    gates: dict[int, Gates]
    order: Sequence[int]


def transpose(cell: Cell, name: str) -> Callable[..., tuple[Tensor, ...]]:
    """What carries the signals of a recurrent layer back to its input and to its first states."""

    def carry_back(
        signals: Sequence[Tensor | None],
        x: Tensor,
        first: Sequence[Tensor],
        weights: Sequence[Tensor],
        biased: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        """Signals of the output and the last states to those of `x` and of each of `first`.

        Shapes are the op's: x (batch, time, values) or (time, batch, values), states (layers *
        directions, batch, values), weights four or two for each layer and direction.
        """
        directions, each = 2 if bidirectional else 1, 4 if biased else 2
        h = x.transpose(0, 1) if batch_first else x
        runs: list[_Run] = []
        for start in range(0, len(weights), directions * each):
            outputs = []
            for side in range(directions):
                states = tuple(state[len(runs)] for state in first)
                own = weights[start + side * each :][:each]
                run, output = _unrolled(cell, h, own, states, backwards=side == 1)
                runs.append(run)
                outputs.append(output)
            h = torch.cat(outputs, -1)
        # Only as many parts as later ops read have a signal.
        missing: list[Tensor | None] = [None] * (len(first) + 1 - len(signals))
        y, *last = [*signals, *missing]
        ends = [torch.zeros_like(s) if e is None else e for e, s in zip(last, first, strict=True)]
        back = torch.zeros_like(h) if y is None else y.transpose(0, 1) if batch_first else y
        starts: list[States] = []
        for number in reversed(range(0, len(runs), directions)):
            sides = []
            for place, piece in enumerate(back.chunk(directions, -1), number):
                last_states = tuple(end[place] for end in ends)
                sides.append(_carried_back(cell, runs[place], piece, last_states))
            back = torch.stack([down for down, _ in sides]).sum(0)
            starts = [states for _, states in sides] + starts
        firsts = (torch.stack(states) for states in zip(*starts, strict=True))
        return (back.transpose(0, 1) if batch_first else back, *firsts)

    carry_back.__name__ = name  # which the deconvnet's code shows
    return carry_back


def _unrolled(
    cell: Cell, x: Tensor, weights: Sequence[Tensor], states: States, *, backwards: bool
) -> tuple[_Run, Tensor]:
    """One direction of one layer, step by step; and its output, (time, batch, values)."""
    w_in, w_hidden, *biases = weights
    b_in, b_hidden = biases or (None, None)
    order = range(len(x))[::-1] if backwards else range(len(x))
    entering = F.linear(x, w_in, b_in)
    gates, outputs = {}, {}
    for time in order:
        states, gates[time] = cell.step(
            entering[time], F.linear(states[0], w_hidden, b_hidden), states
        )
        outputs[time] = states[0]
    candidate_in, candidate_hidden = (
        w.chunk(cell.blocks)[cell.candidate] for w in (w_in, w_hidden)
    )
    run = _Run(candidate_in, candidate_hidden, gates, order)
    return run, torch.stack([outputs[time] for time in range(len(x))])


def _carried_back(cell: Cell, run: _Run, signal: Tensor, ends: States) -> tuple[Tensor, States]:
    """The signal of one direction's input, (time, batch, values), and of its first states."""
    states, candidates = ends, {}
    for time in reversed(run.order):
        states = (states[0] + signal[time], *states[1:])
        candidates[time], hidden, (kept, *others) = cell.back(states, run.gates[time])
        states = (kept + hidden @ run.w_hidden, *others)
    entering = torch.stack([candidates[time] for time in range(len(signal))])
    return entering @ run.w_in, states


lstm_transpose = transpose(LSTM, "lstm_transpose")
gru_transpose = transpose(GRU, "gru_transpose")
rnn_transpose = transpose(RNN, "rnn_transpose")
