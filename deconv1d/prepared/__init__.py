"""Programs that were traced once: for many waveforms, for crops, for long recordings."""
