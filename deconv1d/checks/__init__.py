"""Whether a capture and its mirror are what they should be."""
