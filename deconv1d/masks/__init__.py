"""The recording heard through a spectrogram mask that a channel earns (`method="mask"`)."""
