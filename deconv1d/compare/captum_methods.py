"""Captum's neuron attributions of one channel's map: which module to hook, and what to say of it.

A target is a seed at the layer's map. Captum's methods take it as the scalar `(map * seed).sum()`,
whose gradient at the map is the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import captum.attr
import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from torch import Tensor, nn

from deconv1d.errors import LayerError
from deconv1d.mirror import Step
from deconv1d.record.aliasing import before_write, undo_writes
from deconv1d.record.interrupts import interruptible
from deconv1d.record.unchanged import unchanged
from deconv1d.sonification import Sonification
from deconv1d.sonify import Sonifier

GRADIENT, PATH, OCCLUSION = "NeuronGradient", "NeuronIntegratedGradients", "NeuronFeatureAblation"
GUIDED, DECONVOLUTION, DEEP_LIFT = "NeuronGuidedBackprop", "NeuronDeconvolution", "NeuronDeepLift"
CAPTUM = (GRADIENT, PATH, GUIDED, DECONVOLUTION, OCCLUSION, DEEP_LIFT)
OVERRIDDEN = {
    GUIDED: (("rectify",), (nn.ReLU,)),
    DECONVOLUTION: (("rectify",), (nn.ReLU,)),
    DEEP_LIFT: (("rectify", "switch", "hold", "gradient"), tuple(SUPPORTED_NON_LINEAR)),
}
"""Of what kinds of op a method overrides the gradient, and of which modules it can."""
SEGMENTS = 50
"""Into how many stretches of time a clip is cut, of which occlusion silences one at a time."""
SAME = 1e-4
"""How far a module's output may be from the map that it is, relative to the map's peak."""


class CaptumTarget:
    """One channel's map of one clip, as Captum's methods take it.

    Where no module returns the map at the tap (functional code), the target is the layer's own
    output: Captum hooks modules.

    Args:
        sonifier: Of the model.
        sonification: Of a channel.
        channel: The channel.

    Attributes:
        sonification: At the map that Captum sees.

    Raises:
        LayerError: If no module returns the map, nor the layer's own output.
    """

    def __init__(self, sonifier: Sonifier, sonification: Sonification, channel: int) -> None:
        self._sonifier, self._channel = sonifier, channel
        self._model = _AnyOutput(sonifier)
        self._given = sonification.input
        # A forward hook sees what a module returns. The map at the end of a block is what a module
        # returns only where the block ends in a module, not in `F.relu`.
        self.sonification, self._note = sonification, ""
        self._module = self._returning(sonification.activation)
        if self._module is None and sonification.tap == "block":
            self.sonification = sonifier.sonify(
                sonification.input, layer=sonification.layer, channel=channel, tap="output"
            )
            self._note = "sees the layer's own output: no module returns the end of its block"
            self._module = self._returning(self.sonification.activation)
        if self._module is None:
            raise LayerError(
                f"Captum cannot see the map of {sonification.layer!r}: expected a module that "
                f"returns it, got none. Compare at a layer that is a module."
            )
        self._layout = self.sonification.layout

    def attribute(self, method: str, seed: Tensor) -> Tensor:
        """Returns what a method of Captum's attributes to the samples of the input.

        Integrated gradients and DeepLIFT are not multiplied by the input: their sound is in the
        waveform's own domain, as a gradient is. An occlusion's is the input, each segment weighted
        by what the target loses without it, if it does.

        Args:
            method: One of `CAPTUM`.
            seed: What is carried back, as the model has its maps.
        """
        # Multiplied by the input, an attribution is a share for each sample and no longer a sound.
        local: dict[str, Any] = {"multiply_by_inputs": False} if method in (PATH, DEEP_LIFT) else {}
        more: dict[str, Any] = {}
        # All steps of the path at once would be a batch of 50 examples.
        if method == PATH:
            more["internal_batch_size"] = 1
        if method == OCCLUSION:
            more["feature_mask"] = _segments(self._x)
        with _hookable(self._model):
            captum_method = getattr(captum.attr, method)(self._model, self._module, **local)
            raw = captum_method.attribute(
                self._x.clone(), neuron_selector=self._selector(seed), **more
            )
        raw = torch.as_tensor(raw).detach().to(self._given).reshape(self._given.shape)
        return self._given * raw.clamp(min=0) if method == OCCLUSION else raw

    def note(self, method: str) -> str:
        """Says where a method does something else than its name says; "" where it does not."""
        if method not in OVERRIDDEN:
            return self._note
        kinds, modules = OVERRIDDEN[method]
        # Captum overrides gradients by backward hooks on modules. An op that no such module runs
        # keeps its plain gradient, and Captum does not say so.
        met = [step for step in self._steps if step.rule.kind in kinds]
        missed = [step for step in met if not isinstance(self._module_of(step), modules)]
        notes = [self._note]
        if missed:
            where = "" if len(missed) == len(met) else f" at {len(missed)} of {len(met)} ops"
            names = "nn.ReLU" if modules == (nn.ReLU,) else "supported"
            notes.append(f"plain gradient{where}: no {names} module found there")
        return "; ".join(filter(None, notes))

    @cached_property
    def _steps(self) -> tuple[Step, ...]:
        """The ops between the map and the waveform."""
        return self._sonifier.deconvnet(
            self._given, self.sonification.layer, tap=self.sonification.tap
        ).steps

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self._sonifier.model.named_modules())

    def _module_of(self, step: Step) -> nn.Module | None:
        return self._modules.get(step.op.node.meta["label"].partition("#")[0])

    def _selector(self, seed: Tensor) -> Any:
        """Returns the scalar function whose gradient at the map is the seed's channel."""
        # gradient of (map * seed).sum() with respect to the map = seed
        only = torch.zeros_like(seed)
        self._layout.sorted(only)[:, self._channel] = self._layout.sorted(seed)[:, self._channel]
        return lambda activation: (activation * only.to(activation)).flatten(1).sum(1)

    def _returning(self, activation: Tensor) -> nn.Module | None:
        """Returns the first module whose output, of its last call, is the map."""
        # Compared by value, not by identity: the capture holds copies of what was overwritten.
        returns: dict[nn.Module, bool] = {}
        far = SAME * float(activation.abs().max())

        def look(module: nn.Module, _: Any, output: Any) -> None:
            returns[module] = (
                isinstance(output, Tensor)
                and output.shape == activation.shape
                and float((output.to(activation) - activation).abs().max()) <= far
            )

        with _hookable(self._model), torch.no_grad():
            for module in self._sonifier.model.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    module.register_forward_hook(look)
            self._x = self._as_the_model_takes_it()
        return next((module for module, same in returns.items() if same), None)

    def _as_the_model_takes_it(self) -> Tensor:
        """Returns the input in the shape and dtype that the model takes; runs the model on it."""
        parameters = self._sonifier.model.parameters()
        like = next((p for p in parameters if p.is_floating_point()), self._given)

        x = self._sonifier.as_taken(self._given).to(like.device, like.dtype)
        self._model(x)
        return x


class _AnyOutput(nn.Module):
    """The model, called as the sonifier calls it, whatever it returns.

    Captum wants a tensor, batch first, of which a neuron's attribution needs nothing.
    """

    def __init__(self, sonifier: Sonifier) -> None:
        super().__init__()
        self.model = sonifier.model
        self._call = sonifier.forward

    def forward(self, x: Tensor) -> Tensor:
        self._call(self.model, x)
        return x


@contextmanager
def _hookable(model: nn.Module) -> Iterator[None]:
    """Lets Captum hook and differentiate the model; afterwards the model is as it was before."""
    # A model may write into its buffers as it runs (counters, caches): these are put back too.
    buffers = [before_write(buffer) for buffer in model.buffers()]
    with unchanged(model), interruptible(), torch.enable_grad():
        try:
            yield
        finally:
            undo_writes(buffers)


def _segments(x: Tensor) -> Tensor:
    """Captum's feature mask: which segment of time each sample is in."""
    samples = x.shape[-1]
    # Sample n lies in segment floor(n * SEGMENTS / samples): lengths differ by one sample at most.
    place = torch.arange(samples, device=x.device) * SEGMENTS // samples
    return place.expand(1, *x.shape[1:])
