"""Sonification in the form of Captum's neuron attributions, and Captum's metrics of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import index
from typing import Any

import torch
from captum.attr import NeuronAttribution
from captum.log import log_usage
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity_max
from torch import Tensor, nn

from deconv1d.errors import InputError, LayerError
from deconv1d.layers.axes import Layout
from deconv1d.record.waveform import as_waveform
from deconv1d.seeds import Seed
from deconv1d.sonify import Sonifier


class NeuronSonification(NeuronAttribution):  # type: ignore[misc]  # Captum has no types
    """Raw sonifications in the form of Captum's neuron attributions.

    Captum's metrics, its `NoiseTunnel` and `visualize_timeseries_attr` take it and what it returns.

    Example:
        >>> import torch
        >>> from deconv1d.compare import NeuronSonification
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
        >>> method = NeuronSonification(model, model[0])
        >>> method.attribute(torch.randn(2, 1, 800), neuron_selector=3).shape
        torch.Size([2, 1, 800])

    Args:
        model: Any module that computes on waveforms, or a `Sonifier` of one.
        layer: The module, as in Captum; or a name, as for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        method: As for `Sonifier.sonify`.

    Raises:
        LayerError: If the module is not in the model.
    """

    def __init__(
        self,
        model: nn.Module | Sonifier,
        layer: nn.Module | str,
        *,
        tap: str = "block",
        method: str = "deconvnet",
    ) -> None:
        # A given sonifier has its own way to call the model: arguments cannot be added to it.
        self._given = isinstance(model, Sonifier)
        self._sonifier = model if isinstance(model, Sonifier) else Sonifier(model)
        super().__init__(self._sonifier.model, layer)
        self._tap, self._method = tap, method
        self._name = layer if isinstance(layer, str) else _name_of(layer, self._sonifier.model)

    @log_usage()  # type: ignore[untyped-decorator]  # as Captum's own; NoiseTunnel needs it
    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """Returns the raw sonification of a channel, of some of its moments, or of any seed.

        Args:
            inputs: Waveforms, batch first, (batch, channels, time); alone or in a tuple, as Captum
                gives them.
            neuron_selector: `c` or `(c,)`: channel c, seeded with its map. `(c, t)` or `(c,
                slice)`: of that map these moments. A function from the layer's map, batch first, to
                a scalar for each example: its gradient at the map is the seed. Slices may also
                stand for c.
            additional_forward_args: What else the model takes, as in Captum.
            attribute_to_neuron_input: Must be False.

        Returns:
            Of the inputs' shape, in a tuple if they were.

        Raises:
            InputError: If a selector or an argument cannot be used.
            ChannelError, LayerError, PathError: As for `Sonifier.sonify`.
        """
        # Captum's own methods take a tensor or a tuple of tensors, and return what they were given.
        x, sonifier = _single(inputs), self._sonifier_with(additional_forward_args)
        if attribute_to_neuron_input:
            raise InputError(
                f"The input of layer {self._name!r} cannot be sonified: expected "
                f"attribute_to_neuron_input=False. Give the module before it as the layer."
            )

        # Asked for only by selectors of moments: it costs a forward pass.
        def layout() -> Layout:
            (maps,) = sonifier.all_maps(x, layers=[self._name], tap=self._tap)
            return maps.layout

        channel, seed = _target(neuron_selector, layout)
        sonification = sonifier.programs.sonify(  # NoiseTunnel and its kin call this often
            x,
            layer=self._name,
            channel=channel,
            tap=self._tap,
            seed=seed,
            method=self._method,
        )
        return (sonification.raw,) if isinstance(inputs, tuple) else sonification.raw

    def _sonifier_with(self, arguments: Any) -> Sonifier:
        """Returns a sonifier of the model called with more than the waveform."""
        if arguments is None:
            return self._sonifier
        if self._given:
            raise InputError(
                "A Sonifier calls its model itself: expected additional_forward_args=None, got "
                f"{type(arguments).__name__}. Give Sonifier(model, forward=...), or the model."
            )
        more = arguments if isinstance(arguments, tuple) else (arguments,)
        return Sonifier(self._sonifier.model, forward=lambda model, x: model(x, *more))


def _name_of(layer: nn.Module, model: nn.Module) -> str:
    # Captum's users name a layer by its module, we by its path. The root has the empty path.
    for name, module in model.named_modules():
        if module is layer and name:
            return str(name)
    raise LayerError(
        f"The layer, {type(layer).__name__}, is not in the model: expected a module of "
        f"{type(model).__name__}, other than itself. Give model.get_submodule(name), or the name."
    )


def _single(inputs: Any) -> Any:
    if isinstance(inputs, tuple) and len(inputs) != 1:
        raise InputError(
            f"Several inputs cannot be sonified: expected one waveform, got a tuple of "
            f"{len(inputs)}. Give the others as additional_forward_args."
        )
    return inputs[0] if isinstance(inputs, tuple) else inputs


def _target(selector: Any, layout: Callable[[], Layout]) -> tuple[int | None, Seed]:
    """Translates a neuron selector to channel and seed, as `Sonifier.sonify` takes them."""
    if callable(selector):
        return None, partial(_gradient_of, selector)
    parts = selector if isinstance(selector, tuple) else (selector,)
    try:
        numbers = [part if isinstance(part, slice) else index(part) for part in parts]
    except TypeError:
        numbers = []
    if not numbers:
        raise InputError(
            f"Unknown neuron_selector {selector!r}: expected a channel number, a tuple of numbers "
            f"and slices, channel first, or a function of the map. Give 3, (3,) or (3, 100)."
        )
    # A whole channel is what `sonify` knows already; moments of it need a seed of their own.
    if len(numbers) == 1 and isinstance(numbers[0], int):
        return numbers[0], "activation"
    return None, partial(_only, tuple(numbers), layout)


def _gradient_of(selector: Callable[[Tensor], Any], activation: Tensor) -> Tensor:
    """Returns the seed that a scalar function of the map stands for: its gradient there."""
    # Under inference mode autograd records nothing; the copy is an ordinary tensor again.
    with torch.inference_mode(False), torch.enable_grad():
        here = activation.clone().requires_grad_()
        value = selector(here)
        scalars = isinstance(value, Tensor) and value.numel() in (1, len(here))
        if not scalars or not value.requires_grad:
            raise InputError(
                f"The neuron_selector does not fit the map: expected a scalar for each of "
                f"{len(here)} examples that depends on the map, "
                f"got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}."
                f" Return such as a[:, 3].sum(-1)."
            )
        return torch.autograd.grad(value.sum(), here)[0]


def _only(
    parts: tuple[int | slice, ...], layout: Callable[[], Layout], activation: Tensor
) -> Tensor:
    """Returns the map, set to zero but at some channels and moments."""
    # `ordered` is a view of `mask`: what is written through it lands in the model's own axis order.
    mask = torch.zeros_like(activation)
    ordered = layout().sorted(mask)
    try:
        ordered[(slice(None), *parts)] = 1
    except IndexError as error:
        raise InputError(
            f"neuron_selector {parts} does not fit the map: expected channel and moments within "
            f"{tuple(ordered.shape[1:])} ({error}). sonifier.layers(x) shows each layer's channels."
        ) from error
    return activation * mask


def infidelity(
    sonifier: Sonifier,
    x: Any,
    layer: str,
    channel: int,
    *,
    method: str = "deconvnet",
    tap: str = "block",
    noise: float = 0.02,
    samples: int = 10,
    random_state: int = 0,
) -> Tensor:
    """Measures how badly a sonification predicts what noise in the input does to the channel.

    By `captum.metrics.infidelity`, normalized, so that the sonification's level does not count.
    What it must predict is `(map * map of x).sum() / (map of x).square().sum()`: 1 on x itself, and
    its gradient there is the sonification with `method="gradient"`, but for its level.

    Args:
        sonifier: Of the model.
        x: Waveforms as the model takes them, batch first.
        layer: As for `Sonifier.sonify`.
        channel: Channel number.
        method: As for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        noise: Standard deviation, as a part of each waveform's peak.
        samples: Noises for each waveform.
        random_state: Of the noise.

    Returns:
        Mean squared error, (batch,): 0 is best.

    Raises:
        InputError, ChannelError, LayerError, PathError: As for `Sonifier.sonify`.

    Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations" (2019), section 2.
    """
    # Drawn on the CPU: the same noise on every device.
    x, generator = _batch(x), torch.Generator().manual_seed(random_state)
    facade = NeuronSonification(sonifier, layer, tap=tap, method=method)
    raw = facade.attribute(x, channel)

    def map_of(waveforms: Tensor) -> Tensor:
        return sonifier.maps(waveforms, layer=layer, tap=tap)[:, channel].flatten(1)

    def response(waveforms: Tensor, map_of_x: Tensor) -> Tensor:
        energy = map_of_x.square().sum(1)
        scaled = (map_of(waveforms) * map_of_x).sum(1) / torch.where(energy > 0, energy, 1)
        return scaled.to(x)

    def perturbed(waveforms: Tensor) -> tuple[Tensor, Tensor]:
        change = noise * _peaks(waveforms) * torch.randn(waveforms.shape, generator=generator).to(x)
        return change, waveforms - change

    # Captum draws the perturbations through the function that it is given, in chunks of examples.
    score: Tensor = captum_infidelity(
        response,
        perturbed,
        x,
        raw,
        additional_forward_args=map_of(x),
        n_perturb_samples=samples,
        normalize=True,
    )
    return score


def max_sensitivity(
    sonifier: Sonifier,
    x: Any,
    layer: str,
    channel: int,
    *,
    method: str = "deconvnet",
    tap: str = "block",
    radius: float = 0.02,
    samples: int = 10,
    random_state: int = 0,
) -> Tensor:
    """Measures how much a raw sonification can change when the input hardly does.

    By `captum.metrics.sensitivity_max`.

    Args:
        sonifier: Of the model.
        x: Waveforms as the model takes them, batch first.
        layer: As for `Sonifier.sonify`.
        channel: Channel number.
        method: As for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        radius: Largest change of a sample, as a part of each waveform's peak.
        samples: Changed inputs for each waveform.
        random_state: Of the changes.

    Returns:
        The largest distance from the sonification, over its norm, (batch,).

    Raises:
        InputError, ChannelError, LayerError, PathError: As for `Sonifier.sonify`.

    Source: Yeh et al., "On the (in)fidelity and sensitivity of explanations" (2019), section 4.
    """
    x, generator = _batch(x), torch.Generator().manual_seed(random_state)
    facade = NeuronSonification(sonifier, layer, tap=tap, method=method)

    def perturbed(waveforms: Tensor) -> Tensor:
        change = 2 * torch.rand(waveforms.shape, generator=generator).to(x) - 1
        return waveforms + radius * _peaks(waveforms) * change

    score: Tensor = captum_sensitivity_max(
        facade.attribute, x, perturbed, n_perturb_samples=samples, neuron_selector=channel
    )
    return score


def _batch(x: Any) -> Tensor:
    given = as_waveform(x).given
    if given.dim() < 2:
        raise InputError(
            f"Captum's metrics need a batch: expected waveforms as the model takes them, batch "
            f"first, got shape {tuple(given.shape)}. Give (1, 1, time) for one mono clip."
        )
    return given


def _peaks(waveforms: Tensor) -> Tensor:
    """Returns each example's largest magnitude, broadcastable."""
    return waveforms.abs().amax(list(range(1, waveforms.dim())), keepdim=True)
