"""The paper's tables and figures, one experiment each; `reference_models.run_all` runs them all."""
