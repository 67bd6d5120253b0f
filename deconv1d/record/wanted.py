"""How far the wanted layers have come while a model runs; the last of them stops it.

wanted: conv1 (block), conv2 (output)
h = conv1(x)    conv1's tip: conv
h = relu(h)     conv1's tip: relu
y = conv2(h)    conv1 is complete, conv2 is complete: Stop
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from torch import Tensor
from torch.fx import Graph, Node

from deconv1d.errors import PathError
from deconv1d.record.request import Tap, TapRequest
from deconv1d.rules.op import depends_on_input


class Stop(BaseException):
    """Ends the forward pass; a model's `except Exception` does not catch it."""


class Wanted:
    """The wanted layers of one forward pass.

    Args:
        targets: What is wanted; nothing: the pass is recorded to its end.
        graph: Of the pass.
        kept: Where the maps are kept, by node.
        run_on: Whether the model runs on to its end, to count calls, once the maps are complete.

    Attributes:
        taps: The layers.
        outputs: The node that each module call returned, by "path#call".
        complete: Whether all maps are there.
        error: Why a map cannot be used.
    """

    def __init__(
        self,
        targets: Iterable[TapRequest],
        graph: Graph,
        kept: dict[Node, Tensor],
        *,
        run_on: bool,
    ) -> None:
        self.taps, self.run_on = [Tap(target) for target in targets], run_on
        self.outputs: dict[str, Node] = {}
        self.complete = False
        self.error: PathError | None = None
        self._graph, self._kept = graph, kept
        self._thread = threading.get_ident()

    def asked(self, call: str, *, is_op: bool) -> list[Tap]:
        """Where this module call or op is the wanted layer."""
        return [t for t in self.taps if (t.request.call, t.request.is_op) == (call, is_op)]

    def following(self, node: Node) -> list[Tap]:
        """The layers whose blocks an op may continue."""
        return [tap for tap in self.taps if tap.follows(node)]

    def advance(self, taps: list[Tap], node: Node, value: Tensor) -> None:
        """A wanted layer has run, or its block goes on through the op that has just run."""
        for tap in taps:
            tap.tip = (node, value)
            # No signal can be carried back from here, whatever follows: the pass ends with the
            # error, which `capture` raises once the model is put back.
            if not depends_on_input(node):
                self.error = PathError(self._off_path(tap.request.call))
        if self.error:
            self.finish(self.taps)
        self.finish([tap for tap in taps if tap.request.tap == "output"])

    def finish(self, taps: list[Tap]) -> None:
        """These maps are complete; with the last of all the model is stopped."""
        for tap in taps:
            tap.complete = True
            if tap.tip is not None:
                # Not replaced if it is there: it may have been copied before a write.
                self._kept.setdefault(*tap.tip)
        # None at all wanted: the pass is recorded to its end.
        if taps and all(tap.complete for tap in self.taps):
            self.complete = True
            self.stop_if_complete()

    def stop_if_complete(self) -> None:
        """Stops the model, in the thread that runs it, unless it is to run on.

        Work that the model gave to another thread ends as ever. `Stop` would end a worker of a pool
        there, and the model would wait for ever for what the worker does.
        """
        if self.complete and not self.run_on and threading.get_ident() == self._thread:
            raise Stop

    def ended(self) -> None:
        """The model has come to its end: nothing is left to stop."""
        if not self.complete:
            self.run_on = True
            self.finish(self.taps)

    def _off_path(self, layer: str) -> str:
        ends = [
            f"{node.meta['name']} ({node.meta['source']})"
            for node in self._graph.nodes
            if not depends_on_input(node)
            and any(depends_on_input(source) for source in node.all_input_nodes)
        ]
        able = [
            repr(call.removesuffix("#1")) for call, n in self.outputs.items() if depends_on_input(n)
        ]
        return (
            f"No signal can be carried from layer {layer.removesuffix('#1')!r} to the waveform: "
            f"expected a path of differentiable ops, but its value does not depend on the input "
            f"by any; what does ends at {', '.join(ends[-3:]) or 'no op'}. Choose a layer before "
            f"that, such as {', '.join(able[-3:]) or 'none'}; sonifier.layers(x) lists all."
        )
