"""People of a video in 3D as files that other programs open: BVH, TRC, MOT, CSV, npz, JSON, C3D."""
