"""Data sets, one file each: a loader reads its files and returns `{split: ClipSet}`."""
