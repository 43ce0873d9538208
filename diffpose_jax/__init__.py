"""Lifting 2D human keypoints to distributions of 3D poses with diffusion models.

One shape language throughout: `[H, B, F, J, C]` for hypotheses, batch, frames, joints, channels, leading axes dropped
when absent. Metres inside, millimetres in reports; camera frame x right, y down, z forward; joint 0 is the root.
"""

__version__ = "0.1.0"
