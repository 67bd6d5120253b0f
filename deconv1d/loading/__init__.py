"""Models and weights as people have them: checkpoints of trainers, folders of Hugging Face."""
