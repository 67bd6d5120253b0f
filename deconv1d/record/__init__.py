"""One forward pass of the user's model, recorded, with the model left as it was."""
