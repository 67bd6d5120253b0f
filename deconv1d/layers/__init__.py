"""What can be heard in a model: names, axes, maps, tables."""
