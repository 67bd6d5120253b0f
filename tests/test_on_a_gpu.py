"""On a GPU everything gives what it gives on the processor, and stays on the waveform's device."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from deconv1d import Sonifier
from deconv1d.checks.half import similarity
from deconv1d.compare.side_by_side import compare
from deconv1d.evaluation.disturbed import disturbed_masks
from deconv1d.evaluation.faithfulness import activations, faithfulness
from deconv1d.evaluation.trust import benchmark_trust
from deconv1d.explore.studio import Studio
from deconv1d.logger import SonificationLogger
from deconv1d.mining.mine import mine
from deconv1d.mining.run import mine_into
from reference_models.checkpoint import load_encoder

RATE = 8000
WEIGHTS = (
    Path(__file__).parents[1] / "reference_models/weights/cnn12-w8-arabic-supervised.safetensors"
)
LAYER, DEEP = "conv4", "conv8"
CLOSE = 1e-9
"""As a share of the peak."""

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def network(device: str) -> nn.Module:
    """In double precision: rounding does not decide which of two values a pool takes."""
    return load_encoder(WEIGHTS).double().to(device)


def sonifier_on(device: str, **options: Any) -> Sonifier:
    return Sonifier(network(device), sample_rate=RATE, **options)


def clip(number: int = 0, seconds: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(round(seconds * RATE), generator=generator, dtype=torch.float64) / 4


def differs(ours: Tensor, theirs: Tensor) -> float:
    """How far a tensor of the GPU is from the processor's, as a share of its peak."""
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0
    return float((ours.cpu().double() - theirs.double()).abs().max() / theirs.double().abs().max())


SOUNDS: dict[str, dict[str, Any]] = {
    "one channel": {"channel": 12},
    "the most active": {},
    "some": {"channel": [1, 5, 2]},
    "all": {"channel": "all"},
    "every map at once": {"channel": None},
    "a direction": {"direction": np.linspace(-1, 1, 8)},
    "output": {"channel": 12, "tap": "output"},
    "guided": {"channel": 12, "method": "guided"},
    "gradient": {"channel": 12, "method": "gradient"},
    "ones": {"channel": 12, "seed": "ones"},
    "peak": {"channel": "all", "seed": "peak"},
    "low cut": {"channel": 12, "low_cut": 50.0},
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_are_the_processor_s(name):
    found = {}
    for device in ("cpu", "cuda"):
        sonifier = sonifier_on(device)
        x = clip()[None, None].to(device)
        found[device] = sonifier.sonify(x, LAYER, **_sized(SOUNDS[name]))
    assert found["cuda"].raw.device.type == "cuda"
    assert found["cuda"].waveform.device.type == "cuda"
    assert differs(found["cuda"].raw, found["cpu"].raw) < CLOSE
    assert differs(found["cuda"].waveform, found["cpu"].waveform) < CLOSE


def _sized(options: dict[str, Any]) -> dict[str, Any]:
    """A direction has as many numbers as the layer has channels."""
    if "direction" not in options:
        return options
    channels = network("cpu").get_submodule(f"features.{LAYER}").out_channels
    return {"direction": np.linspace(-1, 1, channels)}


def test_arrays_and_tensors_of_the_processor_are_moved():
    sonifier, x = sonifier_on("cuda"), clip()
    expected = sonifier.sonify(x.cuda(), LAYER, channel=12).raw
    for given in (x, x.numpy(), x.tolist(), x[None, None]):
        raw = sonifier.sonify(given, LAYER, channel=12).raw
        assert differs(raw.reshape(expected.shape), expected.cpu()) < CLOSE


def test_programs_give_what_sonify_gives():
    sonifier, x = sonifier_on("cuda"), clip()[None, None].cuda()
    program = sonifier.prepare(x, DEEP)
    for number in (0, 1):
        other = clip(number)[None, None].cuda()
        plain = sonifier.sonify(other, DEEP, channel=[45, 27]).raw
        assert differs(program(other, channel=[45, 27]).raw, plain.cpu()) < CLOSE
        assert (
            differs(sonifier.programs.sonify(other, DEEP, channel=[45, 27]).raw, plain.cpu())
            < CLOSE
        )


def test_a_recurrent_network_whose_kernels_have_no_derivative_in_eval_mode():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 6, 9, stride=4)
            self.gru = nn.GRU(6, 5, batch_first=True)
            self.last = nn.Conv1d(5, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.gru(self.conv(x).relu().mT)[0].mT).relu()

    torch.manual_seed(0)
    model, x = Recurrent().double().eval(), clip(seconds=0.2)[None, None]
    expected = Sonifier(model).sonify(x, "last", channel=1).raw
    ours = Sonifier(model.cuda()).sonify(x.cuda(), "last", channel=1).raw
    assert differs(ours, expected) < CLOSE


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_cells_that_a_gpu_runs_as_one_op_have_their_gates_held(cell):
    class Stepwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.cell = nn.Conv1d(1, 6, 9, stride=40), cell(6, 5)
            self.last = nn.Conv1d(5, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for frame in self.conv(x).relu().unbind(-1):
                state = self.cell(frame, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            return self.last(torch.stack(outputs, -1)).relu()

    torch.manual_seed(0)
    model, x = Stepwise().double().eval(), clip(seconds=0.05)[None, None]
    for method in ("deconvnet", "gradient"):
        expected = Sonifier(model.cpu()).sonify(x, "last", channel=None, method=method).raw
        ours = Sonifier(model.cuda()).sonify(x.cuda(), "last", channel=None, method=method).raw
        assert differs(ours, expected) < CLOSE


@pytest.mark.parametrize("dtype", ["auto", torch.float16, torch.bfloat16])
def test_half_precision_is_near(dtype):
    x = clip()[None, None].cuda().float()
    model = network("cuda").float()
    expected = Sonifier(model).sonify(x, LAYER, channel=12).raw
    found = Sonifier(model, dtype=dtype).sonify(x, LAYER, channel=12).raw
    assert similarity(found, expected) > 0.9


def test_a_long_recording_is_what_the_whole_is(tmp_path):
    x = clip(seconds=9)
    soundfile.write(tmp_path / "in.wav", x.numpy(), RATE, subtype="DOUBLE")
    sonifier = sonifier_on("cuda")
    out = tmp_path / "out.wav"
    sonifier.stream(tmp_path / "in.wav", LAYER, out=out, channel=12, gain=1.0, tile_seconds=2.0)
    tiled, _ = soundfile.read(out)
    whole = sonifier.sonify(x.cuda(), LAYER, channel=12).raw.flatten().cpu()
    assert differs(torch.from_numpy(tiled), whole) < 1e-6  # the file holds float32


def test_masks_are_found_and_heard():
    x = clip()
    found = {}
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(1)
        found[device] = sonifier_on(device).sonify(
            x.to(device), LAYER, channel=[12, 2], method="mask", generator=generator
        )
    # The searches are of many steps, which rounding leads apart.
    assert similarity(found["cuda"].waveform.cpu(), found["cpu"].waveform) > 0.9


TASKS: dict[str, Callable[[Sonifier, Tensor], Any]] = {
    "layers": lambda sonifier, x: str(sonifier.layers(x)),
    "maps": lambda sonifier, x: sonifier.maps(x, LAYER),
    "plan": lambda sonifier, x: str(sonifier.plan(x, LAYER)),
    "deconvnet": lambda sonifier, x: sonifier.deconvnet(x, LAYER)(sonifier.maps(x, LAYER)),
    "control card": lambda sonifier, x: str(sonifier.control_card(x, LAYER, channel=12)),
    "ablation": lambda sonifier, x: sonifier.ablate(x, LAYER, channel=12).change,
    "tuning": lambda sonifier, x: sonifier.tuning(LAYER, channel=[1, 2]).activation,
    "activations": lambda sonifier, x: activations(sonifier, x, layer=LAYER),
    "faithfulness": lambda sonifier, x: faithfulness(
        sonifier, sonifier.sonify(x, LAYER, channel=12)
    ).to_dict(),
    "comparison": lambda sonifier, x: str(compare(sonifier, x, LAYER, channel=12)),
    "robustness": lambda sonifier, x: str(disturbed_masks(sonifier, [LAYER], [x], most=2).table),
    "trust": lambda sonifier, x: str(
        benchmark_trust(
            sonifier,
            [LAYER],
            {"a": [clip(1), clip(2)], "b": [clip(3).cumsum(0) / 50, clip(4).cumsum(0) / 50]},
            count=2,
        )
    ),
    "the live page": lambda sonifier, x: _heard_live(sonifier, x),
    "mining": lambda sonifier, x: str(
        mine(sonifier, {str(n): clip(n) for n in range(3)}.items(), layers=[LAYER, DEEP], k=2)
    ),
    "shuffled weights": lambda sonifier, x: sonifier.with_weights(sonifier.model.state_dict()),
}


@pytest.mark.parametrize("name", TASKS)
def test_everything_else_runs_there(name):
    sonifier = sonifier_on("cuda")
    assert TASKS[name](sonifier, clip().cuda()) is not None
    assert next(sonifier.model.parameters()).is_cuda


def _heard_live(sonifier: Sonifier, x: Tensor) -> Any:
    file = io.BytesIO()
    soundfile.write(file, x.cpu().numpy(), RATE, format="WAV")
    studio = Studio(sonifier)
    taken = studio.take(file.getvalue())
    studio.prepare(taken["clip"])
    request = {"clip": taken["clip"], "layer": taken["layers"][3]["name"], "channel": 1}
    return [studio.hear({**request, "method": m, "contrast": True}) for m in ("deconvnet", "mask")]


def test_mining_into_a_folder_finds_what_the_processor_finds(tmp_path):
    for number in range(20):
        soundfile.write(
            tmp_path / f"{number:02d}.wav", clip(number).numpy(), RATE, subtype="DOUBLE"
        )
    rows = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        load = partial(sonifier_on, device)
        mine_into(out, [str(tmp_path / "*.wav")], load, layers=[LAYER, DEEP], trust=True, mask=True)
        rows[device] = _winners(out)
    assert len(rows["cpu"]) > 20
    same = sum(rows["cpu"].get(place) == clip for place, clip in rows["cuda"].items())
    assert same > 0.98 * len(rows["cpu"])  # maps that rounding makes equal may change places


def _winners(out: Path) -> dict[tuple[str, int, int], str]:
    rows = pq.read_table(out / "winners.parquet").to_pylist()
    return {(row["layer"], row["channel"], row["rank"]): row["clip"] for row in rows}


def test_the_logger_logs(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        logger = SonificationLogger(
            sonifier_on("cuda"), clip(), maps={LAYER: "most_active"}, writer=writer
        )
        logger.log(1)
    assert any(tmp_path.iterdir())


def test_removing_a_module_s_hooks_leaves_the_model_on_the_gpu_as_it_was():
    model = network("cuda")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Sonifier(model).sonify(clip().cuda(), LAYER, channel="all")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
