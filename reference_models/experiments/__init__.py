"""The paper's tables and figures, one experiment each; `reference_models.run_all` runs them all."""

from reference_models.experiments.tables import TABLES
from reference_models.experiments.transfer import TRANSFER

EXPERIMENTS = (*TABLES, *TRANSFER)
