"""The front door: hear what one feature map of a model responds to in a waveform."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from deconv1d.channels import Channel, carry_back, check_channels, chunk_of, most_active
from deconv1d.contrast import check_contrast, without_others
from deconv1d.errors import InputError, ModelError, SilenceWarning, check_word
from deconv1d.forward import ForwardPass
from deconv1d.layers.axes import Layout, layout_of
from deconv1d.layers.maps import LayerMaps, layer_maps, map_of
from deconv1d.layers.plan import PlanRow, plan_of
from deconv1d.layers.table import LayerRow, layer_table
from deconv1d.mirror import Deconvnet, mirror
from deconv1d.record.unchanged import unwrapped
from deconv1d.record.waveform import Waveform
from deconv1d.rules.table import RULES, Rules
from deconv1d.seeds import SEEDS, Seed, scaled_for_half, seed_of
from deconv1d.sonification import Sonification
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.evaluation.card import ControlCard


class Sonifier:
    """Hears what one feature map of a model responds to.

    Example:
        >>> import torch
        >>> from deconv1d import Sonifier
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
        >>> s = Sonifier(model, sample_rate=8000).sonify(torch.randn(800), layer="0", channel=3)
        >>> s.waveform.shape
        torch.Size([800])

    Args:
        model: Any module that computes on waveforms. It is left exactly as it is.
        sample_rate: In hertz; only files, plots and seconds need it.
        forward: `forward(model, x)`, for models that take more than the waveform.
        rules: The op table; `{**RULES, op: rule}` adds to it or changes it.
        dtype: Run model and mirror in this dtype; None: the model's own. The model's parameters
            are cast for the run, and stay as they are.
        verify: Replay every capture and compare (costs a forward pass).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sample_rate: int | None = None,
        forward: Callable[[Any, Tensor], Any] | None = None,
        rules: Rules = RULES,
        dtype: torch.dtype | None = None,
        verify: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"The model is a {type(model).__name__}: expected a torch.nn.Module. "
                f"Wrap a function in a module, or give its module and forward=."
            )
        self.model = unwrapped(model)
        self.sample_rate, self.rules = sample_rate, rules
        self.forward = forward or _call_model
        self._dtype, self._verify = dtype, verify
        self._forward_pass = ForwardPass(
            self.model, forward=forward, rules=rules, dtype=dtype, verify=verify
        )

    def sonify(
        self,
        x: Any,
        *,
        layer: str,
        channel: Any,
        tap: str = "block",
        seed: Seed = "activation",
        method: str = "deconvnet",
        unpool: str = "switches",
        contrast: str | None = None,
        channel_axis: int | None = None,
    ) -> Sonification:
        """Carries one or more of a layer's maps back to the waveform.

        Args:
            x: Waveform, floating: what the model takes, batch first; or 1-D for one mono clip.
            layer: The model's own dotted path, or any unique suffix; "relu#2" for the second call
                of a module called more than once; "<module path>.<op>#n" for an op without module.
            channel: A number, a list of them, "all", "most_active" (for each example the map with
                the largest mean), or None: every map at once.
            tap: "block": where the layer's normalisation, activation and max-pooling end;
                "output": the layer's own output.
            seed: What is carried back: "activation" (the map), "ones", "peak" (each map's strongest
                moment), or a function from the whole map to a seed of its shape.
            method: "deconvnet", "guided" or "gradient".
            unpool: How max-pooling is undone: "switches" (each value goes to its maximum's place),
                "spread" (over its window) or "interpolate" (between windows); the last two need
                nothing of the input's detail. Not with "gradient".
            contrast: "channels": only what the 8 most active other channels' sonifications of the
                same clip do not explain (`deconv1d.contrast.contrasted`); costs 9 more.
            channel_axis: Which axis of the map counts channels, if it is not the one that
                `layers` shows.

        Raises:
            InputError: If the waveform or an argument cannot be used; a waveform that is too short
                says how many samples are needed.
            LayerError: If no layer, or more than one, answers to the name.
            ChannelError: If the layer has no such channel.
            PathError: If no signal can be carried back from the layer.

        Source: paper, section 3.2 and figure B.2.
        """
        if not callable(seed):
            check_word("seed", seed, SEEDS)
        captured, waveform, name = self._forward_pass.run_to(
            x, layer, tap=tap, method=method, unpool=unpool
        )
        deconvnet = mirror(captured, rules=captured.rules, method=method)
        assert captured.tap is not None
        activation, layout = map_of(captured), layout_of(captured.tap, channel_axis)
        if isinstance(channel, np.ndarray | Tensor):
            channel = channel.tolist()
        chosen = check_channels(channel, activation.shape[layout.channel], name)
        if contrast is not None:
            check_contrast(contrast, activation.shape[layout.channel], chosen, name)
        values, level = scaled_for_half(seed_of(activation, seed, layout))
        answered: list[Channel] | Channel | None = None
        if chosen is None:
            raw = deconvnet(layout.unsorted(values))
        else:
            maps = layout.sorted(activation)
            channels: list[Channel] = [*chosen] if isinstance(chosen, list) else [most_active(maps)]
            carried = partial(carry_back, deconvnet, values, layout, chunk=chunk_of(captured))
            raw, answered = carried(channels), channels
            if contrast is not None:
                raw = without_others(raw, channels, maps, carried)
            if isinstance(chosen, str) or not isinstance(channel, Sequence):
                raw, answered = raw[0], channels[0]
        found = self._finish(
            waveform, raw, level, activation, layout, name, answered, deconvnet, contrast
        )
        return replace(found, tap=tap)

    def maps(
        self, x: Any, *, layer: str, tap: str = "block", channel_axis: int | None = None
    ) -> Tensor:
        """The maps of a layer, from one forward pass.

        Args:
            x: As for `sonify`.
            layer: As for `sonify`.
            tap: As for `sonify`.
            channel_axis: As for `sonify`.

        Returns:
            (batch, channels, ...), whatever the order of the model's own axes.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured = self._forward_pass.run_through(x, [layer], tap=tap).captured
        assert captured.tap is not None
        return layout_of(captured.tap, channel_axis).sorted(map_of(captured))

    def all_maps(self, x: Any, *, layers: Sequence[str], tap: str = "block") -> list[LayerMaps]:
        """The maps of several layers, from one forward pass.

        Args:
            x: As for `sonify`.
            layers: Each as for `sonify`.
            tap: As for `sonify`.

        Returns:
            One record for each layer, in the order given.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured, names = self._forward_pass.run_through(x, layers, tap=tap)
        return [
            layer_maps(captured, node, name)
            for node, name in zip(captured.taps, names, strict=True)
            if node is not None  # the tour raises if it is
        ]

    def layers(self, x: Any) -> Table[LayerRow]:
        """A table of every layer that can be sonified, from one forward pass on a waveform.

        Args:
            x: As for `sonify`.

        Raises:
            InputError: If the waveform cannot be used.
        """
        captured = self._forward_pass.run_whole(x)
        return layer_table(captured, self.model, self.rules)

    def plan(
        self,
        x: Any,
        layer: str,
        *,
        tap: str = "block",
        method: str = "deconvnet",
        unpool: str = "switches",
    ) -> Table[PlanRow]:
        """A table of each op between a layer's map and the waveform, in the mirror's order.

        Args:
            x: As for `sonify`.
            layer: As for `sonify`.
            tap: As for `sonify`.
            method: As for `sonify`.
            unpool: As for `sonify`.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured = self._forward_pass.run_to(
            x, layer, tap=tap, method=method, unpool=unpool
        ).captured
        steps = mirror(captured, rules=captured.rules, method=method).steps
        return plan_of(steps, captured.receptive_fields)

    def deconvnet(
        self,
        x: Any,
        layer: str,
        *,
        tap: str = "block",
        method: str = "deconvnet",
        unpool: str = "switches",
    ) -> Deconvnet:
        """The mirrored network itself, a `torch.fx.GraphModule`; its `code` can be read.

        Call it with a seed shaped like the map, or with several along a leading axis, for their raw
        sonifications. Its parameters are the model's own objects: it follows when they change.

        Args:
            x: As for `sonify`; the switches are those of this waveform.
            layer: As for `sonify`.
            tap: As for `sonify`.
            method: As for `sonify`.
            unpool: As for `sonify`.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured = self._forward_pass.run_to(
            x, layer, tap=tap, method=method, unpool=unpool
        ).captured
        return mirror(captured, rules=captured.rules, method=method)

    def control_card(
        self,
        x: Any,
        *,
        layer: str,
        channel: int | str = "most_active",
        tap: str = "block",
        other: Any = None,
        draws: int = 3,
        random_state: int = 0,
    ) -> ControlCard:
        """How far to trust a sonification: a card with its controls, to print or look at.

        Costs about 35 sonifications of the layer.

        Args:
            x: One clip, as for `sonify`.
            layer: As for `sonify`.
            channel: A number or "most_active".
            tap: As for `sonify`.
            other: Another clip of the same shape, for its switches; None: the input rolled by half.
            draws: How many draws of the redrawn filter and of the random seed.
            random_state: Of all draws.

        Raises:
            InputError: If the sample rate is unknown, there are several clips or channels, `other`
                has another shape, or the sonification is silent.
            LayerError, ChannelError, PathError: As for `sonify`.
        """
        from deconv1d.evaluation.controls import control_card

        return control_card(
            self,
            x,
            layer=layer,
            channel=channel,
            tap=tap,
            other=other,
            draws=draws,
            random_state=random_state,
        )

    def with_weights(self, weights: Mapping[str, Tensor]) -> Sonifier:
        """A sonifier of the same model with other weights in place of some of its own.

        They live in a functional call (`torch.func`): the model keeps its own.

        Args:
            weights: By their names in the model's `named_parameters` and `named_buffers`.
        """
        forward = self.forward
        tensors = {f"model.{name}": w.to(self._dtype or w.dtype) for name, w in weights.items()}

        def other(model: nn.Module, x: Tensor) -> Any:
            return functional_call(_Call(model, forward), tensors, (x,))

        return Sonifier(
            self.model,
            sample_rate=self.sample_rate,
            forward=other,
            rules=self.rules,
            dtype=self._dtype,
            verify=self._verify,
        )

    # --- finishing -------------------------------------------------------------------------

    def _finish(
        self,
        waveform: Waveform,
        raw: Tensor,
        level: float,
        activation: Tensor,
        layout: Layout,
        layer: str,
        channel: Any,
        deconvnet: Deconvnet,
        contrast: str | None,
    ) -> Sonification:
        given = waveform.given
        leading = raw.shape[:1] if isinstance(channel, list) else ()
        wide = torch.promote_types(given.dtype, torch.float32)
        raw = raw.to(given.device, wide).reshape(*leading, *given.shape) * level
        if not torch.isfinite(raw.to(given)).all():
            raise ModelError(
                f"The sonification of layer {layer!r} is not finite: expected numbers within "
                f"{given.dtype}'s range. Give the waveform in float32, or "
                f"Sonifier(model, dtype=torch.float32)."
            )
        scaled, gain = to_peak_of(given.to(wide), raw)
        if (gain == 0).any():
            what = "the input is silent" if not given.any() else "the map is dead"
            what += " or explained by other channels" if contrast and given.any() else ""
            warnings.warn(
                f"The sonification of layer {layer!r} is silent: {what}.",
                SilenceWarning,
                stacklevel=3,
            )
        steps = deconvnet.steps
        return Sonification(
            waveform=scaled.to(given),
            raw=raw.to(given),
            input=given,
            activation=activation.to(given),
            gain=gain.to(given),
            layer=layer,
            channel=channel,
            sample_rate=self.sample_rate,
            layout=layout,
            flagged=sum(step.rule.flagged for step in steps) / max(len(steps), 1),
            contrast=contrast,
        )


def _call_model(model: Any, x: Tensor) -> Any:
    return model(x)


class _Call(nn.Module):
    """A model and how to call it, as one module."""

    def __init__(self, model: nn.Module, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.model, x)


def to_peak_of(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Scales each raw sonification to its input's peak.

    Args:
        x: Waveforms, batch first; or one clip, (time,).
        raw: The same shape, or with a leading axis.

    Returns:
        The scaled sonification, and what it was multiplied by, (batch,) (with that leading axis);
        both exactly 0 where either is silent.

    Source: paper, section 3.2 (4).
    """
    axes = list(range(-(x.dim() - 1 or 1), 0))
    peak, raw_peak = x.abs().amax(axes, keepdim=True), raw.abs().amax(axes, keepdim=True)
    gain = torch.where(raw_peak > 0, peak / raw_peak, 0)
    gain = torch.where(torch.isfinite(gain), gain, 0)
    # Divided first: the largest sample is then the input's peak exactly.
    scaled = torch.where(gain > 0, torch.where(gain == 1, raw, raw / raw_peak * peak), 0)
    return scaled, gain.squeeze(axes)
