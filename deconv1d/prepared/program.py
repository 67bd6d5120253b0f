"""Prepared programs: a model is traced once, then run on many waveforms without tracing again.

A plain `sonify` records every op of the forward pass, writes the mirror and compiles it, on each
call. For small networks that costs several times what the arithmetic costs. A program does it once;
see `deconv1d.prepared.halves` for what it then consists of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deconv1d.errors import InputError, ModelError
from deconv1d.layers.maps import check_finite
from deconv1d.prepared.halves import Trace, trace
from deconv1d.record.waveform import Waveform
from deconv1d.seeds import Seed, check_seed
from deconv1d.sonification import Sonification
from deconv1d.sounding import ReachedMap, sonify_map

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass
    from deconv1d.sonify import Sonifier


class Program:
    """Sonifies waveforms of one shape; made by `Sonifier.prepare`.

    Args:
        sonifier: Whose model, rate and options it uses.
        forward_pass: How the sonifier runs its model.
        x: As for `Sonifier.prepare`, as are the rest.
        layer: See there.
        tap: See there.
        seed: See there.
        method: See there.
        channel_axis: See there.
        verify: See there.
    """

    def __init__(
        self,
        sonifier: Sonifier,
        forward_pass: ForwardPass,
        x: Any,
        *,
        layer: str,
        tap: str,
        seed: Seed,
        method: str,
        channel_axis: int | None,
        verify: bool,
    ) -> None:
        check_seed(seed)
        self._sonifier, self._forward_pass, self._verify = sonifier, forward_pass, verify
        self._options: dict[str, Any] = {
            "layer": layer,
            "tap": tap,
            "method": method,
        }
        self._seed, self._channel_axis = seed, channel_axis
        self._structure = Structure(sonifier.model)
        self._traces: dict[torch.Size, Trace] = {}
        waveform = forward_pass.waveform(x)
        self._given = waveform.read_as(self._traced(waveform).shape).given

    def __repr__(self) -> str:
        layer, shape = self._options["layer"], tuple(self._given.shape)
        return f"Program(layer {layer!r}, shape {shape}, {self._options['method']})"

    def __call__(
        self, x: Any, *, channel: Any = "most_active", seed: Seed | None = None
    ) -> Sonification:
        """The sonification of a waveform, as `Sonifier.sonify` gives it.

        Args:
            x: Of the shape, dtype and device that the program was prepared for; with another number
                of examples, the model is traced once more.
            channel: As for `Sonifier.sonify`.
            seed: As for `Sonifier.sonify`; None: the one that the program was prepared with.

        Raises:
            InputError: If the waveform does not fit.
            ModelError: If the model was changed in structure since, or, with `verify`, if the
                result differs from `sonify`'s.
            ChannelError: As for `Sonifier.sonify`.
        """
        seed = self._seed if seed is None else seed
        check_seed(seed)
        waveform = self._forward_pass.waveform(x)
        # Read as the waveform was that this was prepared for.
        then = self._given.shape
        waveform = waveform.read_as(waveform.given.shape if len(then) == 2 else then)
        self._check(waveform.given)
        traced = self._traced(waveform)
        activation, *held = traced.forward(traced.as_traced(waveform.given))
        check_finite(activation, traced.layer)
        reached = ReachedMap(
            layer=traced.layer,
            tap=self._options["tap"],
            waveform=waveform,
            activation=activation,
            layout=traced.layout,
            carry_back=traced.mirror.bound(held),
            steps=traced.mirror.steps,
            chunk=traced.chunk,
        )
        sonification = sonify_map(
            reached,
            channel=channel,
            seed=seed,
            sample_rate=self._sonifier.sample_rate,
        )
        sonification = replace(sonification, method=self._options["method"])
        if self._verify:
            self._compare(sonification, x, channel, seed)
        return sonification

    def _traced(self, waveform: Waveform) -> Trace:
        """What was traced for this number of examples; traced now if it is new."""
        shape = waveform.given.shape
        # One trace for each number of examples: reshapes in a graph may hold it as a number.
        if shape not in self._traces:
            self._traces[shape] = trace(
                self._forward_pass, waveform.given, channel_axis=self._channel_axis, **self._options
            )
        return self._traces[shape]

    def _check(self, x: Tensor) -> None:
        """Raises unless the waveform fits and the model is the one that was traced."""
        then = self._given
        batch = int(then.dim() > 1)  # how many leading axes may differ in length
        facts: tuple[tuple[str, Any, Any], ...] = (
            ("number of axes", then.dim(), x.dim()),
            ("shape after the batch", tuple(then.shape[batch:]), tuple(x.shape[batch:])),
            ("dtype", then.dtype, x.dtype),
            ("device", then.device, x.device),
        )
        for what, expected, got in facts:
            if expected != got:
                raise InputError(
                    f"The waveform does not fit this program: expected the {what} it was prepared "
                    f"for, {expected}, got {got}. Convert the waveform, or prepare another program."
                )
        if (change := self._structure.change(self._sonifier.model)) is not None:
            raise ModelError(
                f"The model is not the one that this program was prepared for: expected the same "
                f"structure, but {change}. Prepare it again."
            )

    def _compare(self, sonification: Sonification, x: Any, channel: Any, seed: Seed) -> None:
        plain = self._sonifier.sonify(
            x,
            channel=channel,
            seed=seed,
            channel_axis=self._channel_axis,
            **self._options,
        )
        difference = float((plain.raw - sonification.raw).abs().max())
        bound = 1e-4 * float(plain.raw.abs().max())
        if difference > bound:
            raise ModelError(
                f"The program of layer {sonification.layer!r} does not give what sonify gives: "
                f"expected a difference of at most {bound:.2g}, got {difference:.2g}. Use sonify "
                f"for this model."
            )


class Structure:
    """How a model was built when it was traced: modules, their modes, their parameters' identity.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        # The objects themselves are kept: an identity alone could be given to another object.
        self._modules = list(model.named_modules())
        self._training = [_mode(module) for _, module in self._modules]
        self._tensors = _tensors_of(model)
        self._kinds = {name: _kind(tensor) for name, tensor in self._tensors.items()}
        self._held = self._held_now()

    def change(self, model: nn.Module) -> str | None:
        """What differs from the model as it is now; None: nothing."""
        # Before every call: names, which take most of the time, only where something differs.
        if model is self._modules[0][1] and self._held_now() == self._held:
            return None
        now = list(model.named_modules())
        if len(now) != len(self._modules):
            return f"it had {len(self._modules)} modules and has {len(now)}"
        for (name, then), training, (_, module) in zip(
            self._modules, self._training, now, strict=True
        ):
            if module is not then:
                return f"module {name!r} was replaced"
            if _mode(module) != training:
                mode = "train" if _mode(module) else "eval"
                return f"module {name!r} was put into {mode} mode"
        tensors = _tensors_of(model)
        if tensors.keys() != self._tensors.keys():
            return f"its tensors differ in {min(tensors.keys() ^ self._tensors.keys())!r}"
        # Identity and shape, not values: an optimiser changes values in place, and a program uses
        # the parameters as they are when it is called.
        for name, tensor in tensors.items():
            if tensor is not self._tensors[name]:
                return f"tensor {name!r} was replaced"
            # `.data = ...` and `model.double()` leave the object and change what it is.
            for then, is_now in zip(self._kinds[name], _kind(tensor), strict=True):
                if is_now != then:
                    return f"tensor {name!r} was {then} and is {is_now}"
        return None

    def _held_now(self) -> list[tuple[Any, ...]]:
        """What each of the modules holds by now."""
        return [_held(module) for _, module in self._modules]


HOLDS = ("_modules", "_parameters", "_buffers")
"""Where torch keeps what a module holds. Its iterators over them take ten times as long."""


def _held(module: nn.Module) -> tuple[Any, ...]:
    """The mode of a module, and of what it holds names, identities and kinds."""
    own, held = vars(module), list[Any]((_mode(module),))
    for kind in HOLDS:
        for name, value in own.get(kind, {}).items():
            held += name, id(value), isinstance(value, Tensor) and _kind(value)
    return tuple(held)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _mode(module: nn.Module) -> bool:
    return bool(getattr(module, "training", False))  # frozen scripts have no such attribute
