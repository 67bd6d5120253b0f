"""What is made once where the work runs: the model, and what mines and listens with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from deconv1d.errors import ModelError
from deconv1d.mining.hearing import Listener
from deconv1d.mining.mine import weights_hash
from deconv1d.mining.plan import HEAR, MINE, Plan
from deconv1d.mining.shards import Miner
from deconv1d.sonify import Sonifier


class PlanWorker:
    """Does the tasks of a plan.

    Args:
        load: Makes the sonifier.
        plan: What is asked for.

    Raises:
        ModelError: If the model is not the plan's, such as on a machine with older weights.
    """

    def __init__(self, load: Callable[[], Sonifier], plan: Plan) -> None:
        # Before the model runs: the last bits of what it computes depend on it.
        torch.set_num_threads(plan.threads)
        sonifier = load()
        # A machine may have other files at the same path: some results would be of another model,
        # and nothing would show it.
        found = weights_hash(sonifier.model)
        if found != plan.model:
            raise ModelError(
                f"A worker has another model: expected the weights and structure of the plan, "
                f"SHA-256 {plan.model[:12]}, got {found[:12]}. Give all machines the same files."
            )
        self._does: dict[str, Callable[[Any], Any]] = {
            MINE: Miner(sonifier, plan),
            HEAR: Listener(sonifier, plan),
        }

    def __call__(self, task: tuple[str, Any]) -> Any:
        """The result of a task.

        Args:
            task: What is to be done, "mine" or "hear", and what with.
        """
        kind, subject = task
        return self._does[kind](subject)
