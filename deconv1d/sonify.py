"""The front door: hear what one feature map of a model responds to in a waveform."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from deconv1d.channels import chunk_of
from deconv1d.checks.half import HalfWhereAlike, trial
from deconv1d.checks.silence import why_silent
from deconv1d.checks.verification import Verified
from deconv1d.directions import check_direction, sonify_directions
from deconv1d.errors import InputError, ModelError, check_word
from deconv1d.forward import ForwardPass, Tap
from deconv1d.layers.axes import layout_of
from deconv1d.layers.maps import LayerMaps, layer_maps, map_of
from deconv1d.layers.plan import PlanRow, plan_of
from deconv1d.layers.table import LayerRow, layer_table
from deconv1d.mirror import Deconvnet, mirror
from deconv1d.prepared.halves import trace
from deconv1d.prepared.local import local_mirror
from deconv1d.prepared.program import Program
from deconv1d.prepared.programs import Programs
from deconv1d.prepared.reuse import Mirrors
from deconv1d.record.copies import copy_with, own_tensors
from deconv1d.record.unchanged import unwrapped
from deconv1d.rules.table import RULES, Method, Rules
from deconv1d.seeds import Seed, check_seed
from deconv1d.sonification import Sonification
from deconv1d.sounding import ReachedMap, sonify_map
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.evaluation.ablate import Ablated
    from deconv1d.evaluation.card import ControlCard
    from deconv1d.evaluation.tuning import Tuning
    from deconv1d.masks.options import Listening
    from deconv1d.prepared.stream import Streamed


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
            are cast for the run, and stay as they are. "auto": half precision if it is faster
            on this device and a layer's first sonification is like float32's; `print(sonifier)`
            says what was chosen (`deconv1d.checks.half`).
        verify: "once" compares each layer's capture with a plain forward pass and with autograd,
            the first time that it is heard (`Sonification.verified`); "always" does so every
            time; False never.
    """

    about: str = ""
    """What is known of how sound is given to the model; of a folder of Hugging Face."""

    def __init__(
        self,
        model: nn.Module,
        *,
        sample_rate: int | None = None,
        forward: Callable[[Any, Tensor], Any] | None = None,
        rules: Rules = RULES,
        dtype: torch.dtype | Literal["auto"] | None = None,
        verify: str | bool = "once",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"The model is a {type(model).__name__}: expected a torch.nn.Module. "
                f"Wrap a function in a module, or give its module and forward=."
            )
        # torch.compile and DDP wrap a module; hooks belong on the module inside.
        self.model = unwrapped(model)
        self.sample_rate, self.rules = sample_rate, rules
        self.forward = forward or _call_model
        if isinstance(dtype, str):
            check_word("dtype", dtype, ("auto",))
        self._auto = dtype == "auto"
        self._dtype, self._verify = None if isinstance(dtype, str) else dtype, verify
        self._forward_pass = ForwardPass(
            self.model,
            forward=forward,
            rules=rules,
            dtype=self._dtype,
            verify=verify,
            sample_rate=sample_rate,
        )
        self._mirrors = Mirrors()
        self._half: HalfWhereAlike | None = None
        if self._auto and (half := self._dtype_that_pays()) is not None:
            in_half = Sonifier(
                model,
                sample_rate=sample_rate,
                forward=forward,
                rules=rules,
                dtype=half,
                verify=verify,
            )
            self._half = HalfWhereAlike(in_half._carried_back, self._carried_back)

    @classmethod
    def from_huggingface(
        cls, folder: str | Path, *, model_class: Any = None, **options: Any
    ) -> Sonifier:
        """Returns the sonifier of a model in a folder, as `save_pretrained` writes it.

        The rate is that of the folder's processor, and waveforms are normalised as it does: both
        are shown by `print(sonifier)`. Nothing is downloaded.

        Args:
            folder: With config.json and .safetensors.
            model_class: Of transformers; None: `AutoModel`.
            options: As for `Sonifier`; they go before what the folder says.

        Raises:
            FileError, ModelError, DependencyError: As for
                `deconv1d.loading.huggingface.load_pretrained`.
        """
        from deconv1d.loading.huggingface import load_pretrained

        found = load_pretrained(folder, model_class)
        says = {"sample_rate": found.sample_rate, "forward": found.forward}
        sonifier = cls(found.model, **{**says, **options})
        sonifier.about = str(found)
        return sonifier

    def __repr__(self) -> str:
        rate = "rate unknown" if self.sample_rate is None else f"{self.sample_rate} Hz"
        chosen = f"; {trial(self._device)}" if self._auto else ""
        return f"Sonifier({self.about or f'{type(self.model).__name__}: {rate}'}{chosen})"

    @property
    def _device(self) -> str:
        """The type of the device that the model is on."""
        return next((p.device.type for p in self.model.parameters()), "cpu")

    def _dtype_that_pays(self) -> torch.dtype | None:
        """Half precision, if a trial says that it is faster for this model."""
        single = any(p.dtype == torch.float32 for p in self.model.parameters())
        found = trial(self._device) if single else None
        return found.dtype if found is not None and found.pays else None

    def sonify(
        self,
        x: Any,
        layer: str,
        *,
        channel: Any = "most_active",
        direction: Any = None,
        tap: Tap | str = "block",
        seed: Seed = "activation",
        method: Listening | str = "deconvnet",
        low_cut: float | None = None,
        channel_axis: int | None = None,
        budget: float = 0.25,
        rivals: int | None = 8,
        generator: torch.Generator | None = None,
    ) -> Sonification:
        """Carries one or more of a layer's maps back to the waveform.

        Args:
            x: Waveform, floating: an array, tensor or list, (time,) or (channels, time), or what
                the model takes, batch first; or the path of a sound file. Rows of an array with
                two axes are channels if the model takes so many; where it takes one, they are
                clips, with a warning. What comes out counts examples along its first axis, unless
                x is one mono clip, (time,).
            layer: The model's own dotted path, or any unique suffix; "relu#2" for the second call
                of a module called more than once; `<module path>.<op>#n` for an op without module.
            channel: A number, a list of them, "all", "most_active" (for each example the map with
                the largest mean; the default), or None: every map at once.
            direction: Instead of a channel: one number for each channel, (channels,) or
                (directions, channels), such as a probe's row; its seed is the map projected on it.
            tap: "block": where the layer's normalisation, activation and max-pooling end;
                "output": the layer's own output.
            seed: What is carried back: "activation" (the map), "ones", "peak" (each map's strongest
                moment), or a function from the whole map to a seed of its shape.
            method: How: "deconvnet" (the paper's), "guided" or "gradient". Or "mask": nothing is
                carried back, but the recording is heard through a spectrogram mask that lets the
                channel stay active and its rivals not (`deconv1d.masks.listen.listen`); needs the
                sample rate. Not with another seed or `low_cut`.
            low_cut: For listening: leave out what lies below so many hertz; None: the paper's
                waveform as it is.
            channel_axis: Which axis of the map counts channels, if it is not the one that
                `layers` shows.
            budget: With "mask": share of the recording's energy that the mask may keep.
            rivals: With "mask": how many of the most active other channels each channel is
                contrasted with; None: none.
            generator: With "mask": of the random masks; None: a new one with seed 0.

        Raises:
            InputError: If the waveform or an argument cannot be used; a waveform that is too short
                says how many samples are needed.
            LayerError: If no layer, or more than one, has the name.
            ChannelError: If the layer has no such channel.
            PathError: If no signal can be carried back from the layer.

        Source: paper, section 3.2 and figure B.2.
        """
        # A wrong word is refused before the forward pass, which may take long.
        from deconv1d.masks.options import LISTENING, check_sonify_options

        check_word("method", method, LISTENING)
        check_seed(seed)
        check_direction(direction, channel=channel, seed=seed, method=method)
        if method == "mask":
            check_sonify_options(seed, low_cut)
            return self.listen(
                x,
                layers=[layer],
                channel=channel,
                tap=tap,
                channel_axis=channel_axis,
                budget=budget,
                rivals=rivals,
                generator=generator,
            )[0]
        carried_back = self._carried_back if self._half is None else self._half.sonify
        return carried_back(
            x,
            layer,
            channel=channel,
            direction=direction,
            tap=tap,
            seed=seed,
            method=method,
            low_cut=low_cut,
            channel_axis=channel_axis,
        )

    def _carried_back(
        self,
        x: Any,
        layer: str,
        *,
        channel: Any,
        direction: Any,
        tap: str,
        seed: Seed,
        method: str,
        low_cut: float | None,
        channel_axis: int | None,
    ) -> Sonification:
        """What `sonify` gives for checked arguments, in this sonifier's dtype."""
        reached = self._reach(
            x, layer, tap=tap, seed=seed, method=method, channel_axis=channel_axis
        )
        options: dict[str, Any] = {"sample_rate": self.sample_rate, "low_cut": low_cut}
        if direction is not None:
            return replace(sonify_directions(reached, direction, **options), method=method)
        sonification = sonify_map(reached, channel=channel, seed=seed, **options)
        return replace(sonification, method=method)

    def _reach(
        self, x: Any, layer: str, *, tap: str, seed: Seed, method: str, channel_axis: int | None
    ) -> ReachedMap:
        """A layer's map on a waveform, and its way back."""
        captured, waveform, name, verified = self._forward_pass.run_to(
            x, layer, tap=tap, method=method
        )
        assert captured.tap is not None
        layout = layout_of(captured, captured.tap, channel_axis)
        carry_back, steps = self._mirrors.way_back(captured)
        if seed == "peak" or callable(seed):  # these may be zero but for a moment
            program = partial(trace, self._forward_pass, layer=name, tap=tap, method=method)
            carry_back = local_mirror(carry_back, captured, layout, program)
        return ReachedMap(
            layer=name,
            tap=tap,
            waveform=waveform,
            activation=map_of(captured),
            layout=layout,
            carry_back=carry_back,
            steps=steps,
            chunk=chunk_of(captured),
            verified=verified,
            why_silent=partial(
                why_silent,
                captured=captured,
                layer=name,
                gradient=partial(self.deconvnet, x, layer, tap=tap, method="gradient"),
            ),
        )

    def prepare(
        self,
        x: Any,
        layer: str,
        *,
        tap: Tap | str = "block",
        seed: Seed = "activation",
        method: Method | str = "deconvnet",
        channel_axis: int | None = None,
        verify: bool = False,
    ) -> Program:
        """Traces the model once; the program then sonifies any waveform of this shape.

        A call of it gives what `sonify` gives, without recording the forward pass and writing the
        mirror anew: for small networks that is most of the time. It follows the model's weights.

        Args:
            x: As for `sonify`; its shape is the one prepared for, with any number of examples.
            layer: As for `sonify`.
            tap: As for `sonify`.
            seed: As for `sonify`.
            method: As for `sonify`.
            channel_axis: As for `sonify`.
            verify: Whether each call of the program also runs `sonify` and compares the results.

        Raises:
            ModelError: If the forward pass may differ from waveform to waveform: the model looks at
                values, draws random numbers, writes into its own tensors or runs a script.
            InputError, LayerError, PathError: As for `sonify`.

        Example:
            >>> import torch
            >>> from deconv1d import Sonifier
            >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
            >>> program = Sonifier(model).prepare(torch.randn(800), layer="0")
            >>> program(torch.randn(800), channel=3).waveform.shape
            torch.Size([800])
        """
        return Program(
            self,
            self._forward_pass,
            x,
            layer=layer,
            tap=tap,
            seed=seed,
            method=method,
            channel_axis=channel_axis,
            verify=verify,
        )

    @cached_property
    def programs(self) -> Programs:
        """For work that sonifies a layer again and again: `sonifier.programs.sonify(x, layer)`.

        It gives what `sonify` gives, by prepared programs from the second time on where the model
        can be prepared; `programs.refused` says why a layer cannot.
        """
        return Programs(self)

    def stream(
        self,
        source: str | Path | Iterable[Any],
        layer: str,
        *,
        out: str | Path,
        channel: int,
        tap: Tap | str = "block",
        method: Method | str = "deconvnet",
        gain: float | None = None,
        tile_seconds: float = 20.0,
        progress: bool = False,
    ) -> Streamed:
        """Sonifies a recording of any length into a sound file, in memory that does not grow.

        The recording is cut into tiles that overlap by the layer's receptive field, so that the
        result is that of the whole recording, up to rounding.

        Args:
            source: A sound file, or blocks of samples, (time,) each, at the sonifier's rate.
            layer: As for `sonify`.
            out: A file that ends in .wav, .flac or .ogg; it is there when it is whole.
            channel: A number.
            tap: As for `sonify`.
            method: As for `sonify`.
            gain: What to multiply the raw sonification by; None: scale it to the recording's peak.
            tile_seconds: About how much of the recording is sonified at once.
            progress: Whether to show a bar on stderr.

        Raises:
            ModelError: If an op before the layer reads all of time, such as instance norm, or the
                model cannot be prepared (see `prepare`).
            FileError: If a file cannot be read or written.
            InputError, LayerError, ChannelError, PathError: As for `sonify`.
        """
        from deconv1d.prepared.stream import stream

        return stream(
            self,
            self._forward_pass,
            source,
            out=out,
            layer=layer,
            channel=channel,
            gain=gain,
            tile_seconds=tile_seconds,
            progress=progress,
            tap=tap,
            method=method,
        )

    def listen(self, x: Any, *, layers: Sequence[str], **options: Any) -> list[Sonification]:
        """The recording through the masks of several layers' channels (`method="mask"`).

        The random masks, which cost most, are shared between the layers.

        Args:
            x: As for `sonify`.
            layers: Each as for `sonify`.
            options: As for `deconv1d.masks.listen.listen`.

        Returns:
            One for each layer.
        """
        from deconv1d.masks.listen import listen

        return listen(self, x, layers=layers, **options)

    def maps(
        self, x: Any, layer: str, *, tap: Tap | str = "block", channel_axis: int | None = None
    ) -> Tensor:
        """Returns the maps of a layer, from one forward pass.

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
        # Without a way back nothing must be kept of the pass but the map itself.
        captured = self._forward_pass.run_through(x, [layer], tap=tap).captured
        assert captured.tap is not None
        return layout_of(captured, captured.tap, channel_axis).sorted(map_of(captured))

    def all_maps(
        self, x: Any, *, layers: Sequence[str], tap: Tap | str = "block"
    ) -> list[LayerMaps]:
        """Returns the maps of several layers, from one forward pass.

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
            if node is not None  # `run_through` raises if it is
        ]

    def as_taken(self, x: Any) -> Tensor:
        """Returns a waveform in the shape in which the model takes it, batch first.

        Args:
            x: As for `sonify`.

        Raises:
            InputError: If the waveform cannot be used.
        """
        return self._forward_pass.as_taken(x)

    @property
    def forward_pass(self) -> ForwardPass:
        """How this sonifier runs its model."""
        return self._forward_pass

    @property
    def verified(self) -> dict[str, Verified]:
        """How far each layer that was heard is from the model itself, by its name."""
        return dict(self._forward_pass.verification.outcomes)

    def layers(self, x: Any) -> Table[LayerRow]:
        """Lists every layer that can be sonified, from one forward pass on a waveform.

        Layers that were heard show how far they are from the model itself (`verified`).

        Args:
            x: As for `sonify`. Of a file of more than two minutes the first 20 seconds are run,
                unless the model takes no such length.

        Raises:
            InputError: If the waveform cannot be used.
            FileError: If the file cannot be read.
        """
        from deconv1d.prepared.stream import beginning_of

        captured = None
        if (beginning := beginning_of(x, self.sample_rate)) is not None:
            with suppress(InputError, ModelError):  # it may take recordings of one length only
                captured = self._forward_pass.run_whole(beginning)
        # Every layer may be asked for: the forward pass runs to its end.
        captured = captured or self._forward_pass.run_whole(x)
        return layer_table(captured, self.model, self.rules, self.verified)

    def plan(
        self,
        x: Any,
        layer: str,
        *,
        tap: Tap | str = "block",
        method: Method | str = "deconvnet",
    ) -> Table[PlanRow]:
        """Lists each op between a layer's map and the waveform, in the mirror's order.

        Args:
            x: As for `sonify`.
            layer: As for `sonify`.
            tap: As for `sonify`.
            method: As for `sonify`.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured, _, name, verified = self._forward_pass.run_to(x, layer, tap=tap, method=method)
        # The mirror is written but not run: the plan costs one forward pass.
        steps = mirror(captured, rules=captured.rules, method=method).steps
        title = "" if verified is None else f"verified (value, signal) {name}: {verified}"
        return Table(plan_of(steps, captured.receptive_fields), title=title)

    def deconvnet(
        self,
        x: Any,
        layer: str,
        *,
        tap: Tap | str = "block",
        method: Method | str = "deconvnet",
    ) -> Deconvnet:
        """Returns the mirrored network, a `torch.fx.GraphModule`; its `code` can be read.

        Call it with a seed shaped like the map, or with several along a leading axis, for their raw
        sonifications. Its parameters are the model's own objects: it follows when they change.

        Args:
            x: As for `sonify`; the switches are those of this waveform.
            layer: As for `sonify`.
            tap: As for `sonify`.
            method: As for `sonify`.

        Raises:
            InputError, LayerError, PathError: As for `sonify`.
        """
        captured = self._forward_pass.run_to(x, layer, tap=tap, method=method).captured
        return mirror(captured, rules=captured.rules, method=method)

    def control_card(
        self,
        x: Any,
        layer: str,
        *,
        channel: int | str = "most_active",
        tap: Tap | str = "block",
        other: Any = None,
        twin: Sonifier | None = None,
        full: bool = False,
        quick: bool = False,
        draws: int = 3,
        random_state: int = 0,
        progress: bool = False,
    ) -> ControlCard:
        """Makes a card that says how far to trust a sonification, by its controls.

        Costs about 40 sonifications of the layer; a full card about 200, a quick one about 20.

        Args:
            x: One clip, as for `sonify`.
            layer: As for `sonify`.
            channel: A number or "most_active".
            tap: As for `sonify`.
            other: Another clip of the same shape, for its switches, on a full card; None: the
                input rolled by half.
            twin: A sonifier of a network of the same layers that must not pass for this one:
                untrained, or trained on random labels.
            full: Whether to add cascading randomisation, sMPRT, eMPRT and trivial sounds.
            quick: Whether to draw each control once, for a first look: its shares say less.
            draws: Sounds of the permuted filter, of all weights permuted and of the random map.
            random_state: Of all draws.
            progress: Whether to show how far it is, on stderr.

        Raises:
            InputError: If the sample rate is unknown, there are several clips or channels, `other`
                has another shape, or the sonification is silent.
            LayerError, ChannelError, PathError: As for `sonify`.
        """
        # Imported here: the card needs a Sonifier, so its module imports this one.
        from deconv1d.evaluation.controls import control_card

        return control_card(
            self,
            x,
            layer=layer,
            channel=channel,
            tap=tap,
            other=other,
            twin=twin,
            full=full,
            quick=quick,
            draws=draws,
            random_state=random_state,
            progress=progress,
        )

    def ablate(
        self,
        x: Any,
        layer: str,
        channel: Any = "most_active",
        *,
        value: str = "zero",
        tap: Tap | str = "block",
        channel_axis: int | None = None,
    ) -> Ablated:
        """Runs the model with a channel's map silenced; returns its output beside the unchanged.

        Args:
            x: As for `sonify`.
            layer: As for `sonify`.
            channel: A number, a list of them (silenced together), "all", or "most_active" of one
                clip.
            value: "zero", or "mean": each map's own mean over time.
            tap: As for `sonify`: where the map is overwritten.
            channel_axis: As for `sonify`.

        Raises:
            ModelError: If the model returns no single tensor, or does not run the same way twice.
            InputError, LayerError, ChannelError: As for `sonify`.
        """
        from deconv1d.evaluation.ablate import ablate

        return ablate(
            self,
            self._forward_pass,
            x,
            layer,
            channel,
            value=value,
            tap=tap,
            channel_axis=channel_axis,
        )

    def tuning(
        self,
        layer: str,
        *,
        channel: int | Sequence[int] | str = "all",
        tap: Tap | str = "block",
        stimuli: str = "tones",
        per_octave: int = 4,
        levels: Sequence[float] = (-40, -30, -20, -10, 0),
        seconds: float = 1.0,
        random_state: int = 0,
    ) -> Tuning:
        """Tuning curves: what the channels of a layer respond to, by frequency and level.

        Args:
            layer: As for `sonify`.
            channel: A number, a list of them or "all"; all cost no more than one.
            tap: As for `sonify`.
            stimuli: "tones", or "noise": bands of a third of an octave.
            per_octave: How many frequencies an octave, from 40 Hz up to half the sample rate.
            levels: In decibels re a full-scale sine.
            seconds: Length of each sound; the layer's receptive field must fit into it.
            random_state: Of the noise.

        Returns:
            Curves, a table of centre, bandwidth, Q and best level, and the exact magnitude response
            where the layer is a linear filter of the waveform.

        Raises:
            InputError: If the sample rate is unknown, or an argument cannot be used.
            LayerError, ChannelError, PathError: As for `sonify`.

        Example:
            >>> import torch
            >>> from deconv1d import Sonifier
            >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
            >>> Sonifier(model, sample_rate=8000).tuning("0").activation.shape
            (4, 5, 27)
        """
        from deconv1d.evaluation.tuning import tuning

        return tuning(
            self,
            self._forward_pass,
            layer,
            channel=channel,
            tap=tap,
            stimuli=stimuli,
            per_octave=per_octave,
            levels=levels,
            seconds=seconds,
            random_state=random_state,
        )

    def with_weights(self, weights: Mapping[str, Tensor]) -> Sonifier:
        """Returns a sonifier of the same model, with other weights in place of some.

        Its model is a copy of the modules that shares all other tensors. So neither this model nor
        another thread that runs it sees the weights.

        Args:
            weights: By their names in the model's `named_parameters` and `named_buffers`.

        Raises:
            InputError: If the model has no tensor of a name.
            ModelError: When it runs, if the model's own weight is used: `forward=`, or a function
                that the model keeps, holds the model itself.
        """
        replaced = own_tensors(self.model, weights)
        other = Sonifier(
            copy_with(self.model, weights),
            sample_rate=self.sample_rate,
            forward=None if self.forward is _call_model else self.forward,
            rules=self.rules,
            dtype="auto" if self._auto else self._dtype,
            verify=self._verify,
        )
        other._forward_pass.runs_a_copy(self._forward_pass, replaced)
        return other


def _call_model(model: Any, x: Tensor) -> Any:
    return model(x)
