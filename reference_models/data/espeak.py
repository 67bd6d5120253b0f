"""Speaks words with one eSpeak NG voice and writes them to standard output.

A program of its own, for `words.py` to run: eSpeak carries its pitch flutter and its echo over
from word to word and cannot be reset, so only a fresh process says a word the same way twice.

    python espeak.py LIBRARY DATA_FOLDER VOICE WORD [WORD ...]

Output, little-endian: the sample rate in hertz (int32), then for each word its number of samples
(int32) and the samples (int16).
"""

import ctypes
import struct
import sys

SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, before Synth returns
CHARACTERS = 1  # POS_CHARACTER
UTF8 = 1  # espeakCHARS_UTF8

Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def main(library: str, data: str, voice: str, *words: str) -> None:
    """Speaks the words in their order."""
    espeak = ctypes.CDLL(library)
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))  # else the time of day
    if rate < 0 or espeak.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit(f"eSpeak NG (data in '{data}') has no voice {voice!r}")
    spoken = bytearray()

    @Callback
    def collect(samples, count, _events):
        if samples:
            spoken.extend(ctypes.string_at(samples, 2 * count))
        return 0

    espeak.espeak_SetSynthCallback(collect)
    sys.stdout.buffer.write(struct.pack("<i", rate))
    for word in words:
        text = word.encode() + b"\0"
        size = ctypes.c_size_t(len(text))
        espeak.espeak_Synth(text, size, 0, CHARACTERS, 0, UTF8, None, None)
        sys.stdout.buffer.write(struct.pack("<i", len(spoken) // 2) + spoken)
        spoken.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
