"""The joint orders of 2D detectors beyond 17 joints of COCO, as trees in words: `joint<parent` in joint order.

Sources: OpenPose's BODY_25 and COCO-18 (https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/
02_output.md), Halpe-26 (https://github.com/Fang-Haoshu/Halpe-FullBody), COCO-WholeBody (https://github.com/jin-s13/
COCO-WholeBody: 17 body joints of COCO, 6 of the feet, 68 of the face, 21 of each hand).
"""

from __future__ import annotations

from collections.abc import Iterator

_COCO = (
    "nose left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye "
    "left_shoulder<nose right_shoulder<nose left_elbow<left_shoulder right_elbow<right_shoulder "
    "left_wrist<left_elbow right_wrist<right_elbow left_hip<left_shoulder right_hip<right_shoulder "
    "left_knee<left_hip right_knee<right_hip left_ankle<left_knee right_ankle<right_knee "
)

# OpenPose's 25 body parts: neck and middle of the hips are detected themselves.
BODY_25 = (
    "nose<neck neck<pelvis right_shoulder<neck right_elbow<right_shoulder right_wrist<right_elbow "
    "left_shoulder<neck left_elbow<left_shoulder left_wrist<left_elbow pelvis "
    "right_hip<pelvis right_knee<right_hip right_ankle<right_knee "
    "left_hip<pelvis left_knee<left_hip left_ankle<left_knee "
    "right_eye<nose left_eye<nose right_ear<right_eye left_ear<left_eye "
    "left_big_toe<left_ankle left_small_toe<left_big_toe left_heel<left_ankle "
    "right_big_toe<right_ankle right_small_toe<right_big_toe right_heel<right_ankle"
)

# OpenPose's COCO model: 17 joints in another order, and a neck.
OPENPOSE_18 = (
    "nose<neck neck right_shoulder<neck right_elbow<right_shoulder right_wrist<right_elbow "
    "left_shoulder<neck left_elbow<left_shoulder left_wrist<left_elbow "
    "right_hip<neck right_knee<right_hip right_ankle<right_knee left_hip<neck left_knee<left_hip left_ankle<left_knee "
    "right_eye<nose left_eye<nose right_ear<right_eye left_ear<left_eye"
)

# The body of Halpe-136, as AlphaPose and MMPose detect it: Head is the top of the head, Hip the middle of the hips.
HALPE_26 = (
    "nose<neck left_eye<nose right_eye<nose left_ear<left_eye right_ear<right_eye "
    "left_shoulder<neck right_shoulder<neck left_elbow<left_shoulder right_elbow<right_shoulder "
    "left_wrist<left_elbow right_wrist<right_elbow left_hip<pelvis right_hip<pelvis "
    "left_knee<left_hip right_knee<right_hip left_ankle<left_knee right_ankle<right_knee "
    "head_top<neck neck<pelvis pelvis "
    "left_big_toe<left_ankle right_big_toe<right_ankle left_small_toe<left_big_toe right_small_toe<right_big_toe "
    "left_heel<left_ankle right_heel<right_ankle"
)

# The mirror image of each of the 68 points of a face (iBUG's order; 0 is at the person's right ear, 8 the chin).
_FACE_PAIRS = {right: 16 - right for right in range(8)} | {right: 43 - right for right in range(17, 22)}
_FACE_PAIRS |= {31: 35, 32: 34, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46}
_FACE_PAIRS |= {48: 54, 49: 53, 50: 52, 59: 55, 58: 56, 60: 64, 61: 63, 67: 65}


def _face() -> Iterator[str]:
    left = {partner: right for right, partner in _FACE_PAIRS.items()}
    for point in range(68):
        if point in _FACE_PAIRS:
            yield f"right_face_{point}<nose"
        elif point in left:
            yield f"left_face_{left[point]}<nose"  # paired by name with its mirror image
        else:
            yield f"face_{point}<nose"


def _hand(side: str) -> Iterator[str]:
    """The wrist again, then four points of each finger from the palm to the tip."""
    yield f"{side}_hand_0<{side}_wrist"
    for point in range(1, 21):
        yield f"{side}_hand_{point}<{side}_hand_{0 if point % 4 == 1 else point - 1}"


_FEET = "left_big_toe<left_ankle left_small_toe<left_big_toe left_heel<left_ankle "
COCO_WHOLEBODY_133 = " ".join(
    [_COCO + _FEET + _FEET.replace("left", "right"), *_face(), *_hand("left"), *_hand("right")]
)

TREES: dict[str, str] = {
    "body25": BODY_25,
    "openpose18": OPENPOSE_18,
    "halpe26": HALPE_26,
    "coco_wholebody133": COCO_WHOLEBODY_133,
}
