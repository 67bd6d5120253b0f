"""Builds a cache: `python -m reference_models.data --speech-commands DIR --out DIR`."""

from __future__ import annotations

import argparse
import json

from reference_models.data import (
    ClipSet,
    arabic_commands,
    audioset,
    build_cache,
    fsd50k,
    rendered_events,
    rendered_words,
    speech_commands,
)


def main() -> None:
    """Builds what the command line asks for and prints the summary of its index as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.data",
        description="Decode a data set once into a cache of 8 kHz memory maps. "
        "Run again, it goes on where it stopped.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audioset", metavar="DIR")
    source.add_argument("--audioset-balanced", metavar="DIR", help="without the unbalanced list")
    source.add_argument("--fsd50k", metavar="DIR")
    source.add_argument("--speech-commands", metavar="DIR")
    source.add_argument("--arabic-commands", metavar="DIR", help="the layout of Speech Commands")
    source.add_argument("--words", metavar="VOICES", type=int, help="rendered, e.g. 120")
    source.add_argument("--events", metavar="GROUP", choices=["A", "B"], help="rendered, A or B")
    parser.add_argument(
        "--lasting", action="store_true", help="events that last to the end of their clip"
    )
    parser.add_argument("--clips", type=int, default=2000, help="of the events (default: 2000)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the cache")
    try:
        clips = _build(parser.parse_args())
    except (OSError, ValueError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(json.dumps(clips.index.summary()))


def _build(args: argparse.Namespace) -> ClipSet:
    if args.words is not None:
        return rendered_words(args.out, voices=args.words)
    if args.events:
        return rendered_events(args.out, group=args.events, clips=args.clips, lasting=args.lasting)
    if args.audioset:
        return build_cache(audioset(args.audioset), args.out)
    if args.audioset_balanced:
        return build_cache(audioset(args.audioset_balanced, balanced=True), args.out)
    if args.arabic_commands:
        return build_cache(arabic_commands(args.arabic_commands), args.out)
    if args.fsd50k:
        return build_cache(fsd50k(args.fsd50k), args.out)
    return build_cache(speech_commands(args.speech_commands), args.out)


if __name__ == "__main__":
    main()
