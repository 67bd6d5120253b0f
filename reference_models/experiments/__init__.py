"""The paper's tables and figures, one experiment each; `reference_models.run_all` runs them all."""

from reference_models.experiments.activity import ACTIVITY
from reference_models.experiments.discernible import DISCERNIBLE
from reference_models.experiments.evolution import EVOLUTION
from reference_models.experiments.gates import GATES
from reference_models.experiments.labels import LABELS
from reference_models.experiments.learning import LEARNING
from reference_models.experiments.pairs import PAIRS_TO_HEAR
from reference_models.experiments.removal import REMOVAL
from reference_models.experiments.shifts import SHIFTS, STRIDED
from reference_models.experiments.similarity import SIMILARITY
from reference_models.experiments.soundnet import SOUNDNET
from reference_models.experiments.strongest import TOP_3
from reference_models.experiments.tables import TABLES
from reference_models.experiments.transfer import TRANSFER

EXPERIMENTS = (
    GATES,
    LEARNING,
    *DISCERNIBLE,
    *TABLES,
    ACTIVITY,
    PAIRS_TO_HEAR,
    TOP_3,
    LABELS,
    *TRANSFER,
    EVOLUTION,
    REMOVAL,
    SIMILARITY,
    SHIFTS,
    STRIDED,
    SOUNDNET,
)
"""In the order of the report."""
