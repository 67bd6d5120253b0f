"""The paper's models, data and training; a trained network by others to listen to."""
