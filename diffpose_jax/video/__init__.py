"""From a video to the people in it: frames, a 2D detector, tracks with identities."""
