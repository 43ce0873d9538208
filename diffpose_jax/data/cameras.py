"""Real and random cameras, and what they see of a 3D motion.

World frame: z up, metres, floor near z = 0. `view_motion` turns world motion into the 2D-3D pairs of a loader.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax import geometry, quaternions
from diffpose_jax.errors import UserError
from diffpose_jax.geometry import Camera

H36M_CAMERA_IDS = ("54138969", "55011271", "58860488", "60457274")

# How far from the point that the cameras aim at a person may walk and stay in all four images of Human3.6M, in metres.
RADIUS = 1.5

# Per camera: focal length and centre in pixels, radial and tangential distortion, image size.
H36M_INTRINSICS = (
    (
        (1145.0494, 1143.7811),
        (512.5415, 515.4515),
        (-0.20709892, 0.24777518, -0.0030751503),
        (-0.0009756989, -0.0014244716),
        (1000, 1002),
    ),
    (
        (1149.6757, 1147.5917),
        (508.84863, 508.0649),
        (-0.19421363, 0.24040854, 0.0068199756),
        (-0.0016190266, -0.0027408944),
        (1000, 1000),
    ),
    (
        (1149.1407, 1148.799),
        (519.81586, 501.40265),
        (-0.20833819, 0.255488, -0.0024604974),
        (0.001484387, -0.0007599993),
        (1000, 1000),
    ),
    (
        (1145.5114, 1144.7739),
        (514.9682, 501.88202),
        (-0.19838409, 0.21832368, -0.008947807),
        (-0.0005872056, -0.001813362),
        (1000, 1002),
    ),
)

# Per subject and camera: quaternion from camera to world axes, position in the world in millimetres.
H36M_EXTRINSICS = {
    "S1": (
        ((0.14070565, -0.15007018, -0.7552408, 0.62232804), (1841.107, 4955.2847, 1563.4454)),
        ((0.6157188, -0.7648363, -0.14833826, 0.11794741), (1761.2786, -5078.007, 1606.265)),
        ((0.14651473, -0.14647852, 0.76530236, -0.60941756), (-1846.7777, 5215.0464, 1491.9724)),
        ((0.58340085, -0.7853162, 0.14548823, -0.14749594), (-1794.7897, -3722.699, 1574.8927)),
    ),
    "S5": (
        ((0.14673772, -0.16237096, -0.7551893, 0.6178939), (2097.3916, 4880.945, 1605.7324)),
        ((0.61597586, -0.7626792, -0.15728192, 0.1189815), (2031.7008, -5167.933, 1612.9231)),
        ((0.14291371, -0.12907842, 0.7678385, -0.6110143), (-1620.5948, 5171.6587, 1496.437)),
        ((0.592048, -0.7814218, 0.12747486, -0.15036418), (-1637.1737, -3867.3174, 1547.0332)),
    ),
    "S6": (
        ((0.13378978, -0.15692396, -0.75710905, 0.61988795), (1935.4518, 4950.2456, 1618.0839)),
        ((0.61471975, -0.7628813, -0.16174768, 0.11819245), (1969.804, -5128.739, 1632.7788)),
        ((0.15299481, -0.13529131, 0.76460963, -0.6112781), (-1769.5964, 5185.3613, 1476.9934)),
        ((0.59161013, -0.7804774, 0.1283227, -0.15615939), (-1721.6687, -3884.1313, 1540.4879)),
    ),
    "S7": (
        ((0.14352418, -0.16313368, -0.75483286, 0.6188825), (1974.513, 4926.3545, 1597.8326)),
        ((0.6141673, -0.76382625, -0.15966456, 0.117792994), (1937.0585, -5119.79, 1631.5665)),
        ((0.1455006, -0.12874816, 0.76605165, -0.61271393), (-1741.8112, 5208.2495, 1464.8246)),
        ((0.5912848, -0.78217643, 0.12445474, -0.15196487), (-1734.7106, -3832.4214, 1548.583)),
    ),
    "S8": (
        ((0.14110588, -0.15589868, -0.75619173, 0.61964405), (2150.6519, 4896.161, 1611.9047)),
        ((0.61696017, -0.7647668, -0.1484635, 0.11158158), (2219.9656, -5148.453, 1613.0441)),
        ((0.1471444, -0.1337712, 0.76701283, -0.61003697), (-1571.2216, 5137.0186, 1498.1761)),
        ((0.59278244, -0.78258705, 0.12147816, -0.14631996), (-1476.9133, -3896.7412, 1547.9722)),
    ),
    "S9": (
        ((0.15540588, -0.15548216, -0.75320953, 0.6199595), (2044.4585, 4935.117, 1481.2275)),
        ((0.6187845, -0.7634735, -0.14132239, 0.11933968), (1990.9597, -5123.8105, 1568.8048)),
        ((0.13357827, -0.13671005, 0.76894546, -0.61007386), (-1670.9922, 5211.986, 1528.388)),
        ((0.5879399, -0.7823407, 0.14276144, -0.1479487), (-1696.0435, -3827.0999, 1591.4127)),
    ),
    "S11": (
        ((0.15232472, -0.1544232, -0.75475633, 0.619107), (2098.4402, 4926.5547, 1500.2786)),
        ((0.61894494, -0.7600917, -0.15300633, 0.12552583), (2083.1824, -4912.173, 1561.0786)),
        ((0.14943229, -0.15650228, 0.7681234, -0.60263044), (-1609.8153, 5177.336, 1537.8967)),
        ((0.58942515, -0.7818877, 0.13991211, -0.14715362), (-1590.738, -3854.169, 1578.0176)),
    ),
}
H36M_SUBJECTS = tuple(H36M_EXTRINSICS)


def h36m_cameras(subject: str = "S1") -> Camera:
    """The four cameras of Human3.6M, leading axis `[4]` in the order of `H36M_CAMERA_IDS`, numpy float32.

    The calibration of the data set as VideoPose3D publishes it: one lens per camera, placed anew for every subject.
    Lens in normalised image units, translation in metres. Raises UserError for an unknown subject.
    """
    if subject not in H36M_EXTRINSICS:
        raise UserError(f"unknown Human3.6M subject {subject!r}: expected one of {', '.join(H36M_EXTRINSICS)}")
    focal, centre, radial, tangential, size = (
        np.array(column, np.float32).astype(np.float64) for column in zip(*H36M_INTRINSICS, strict=True)
    )
    rotation, millimetres = (np.array(column, np.float32) for column in zip(*H36M_EXTRINSICS[subject], strict=True))
    camera = Camera(
        focal=focal / size[:, :1] * 2,
        centre=geometry.normalise_screen(centre, size),
        radial=radial,
        tangential=tangential,
        rotation=rotation,
        translation=millimetres.astype(np.float64) / 1000,
        size=size,
    )
    return Camera(*(value.astype(np.float32) for value in camera))


def random_cameras(rng: np.random.Generator, count: int) -> Camera:
    """Draw `[count]` cameras of a room, numpy float32, that look at a person standing at the origin of the world.

    Anywhere around the person, 3 to 6 m away, 0.8 to 2.2 m high, aimed at the pelvis region, nearly upright (roll of
    2 degrees), with Human3.6M's focal length give or take 3 %, a weaker distortion and square images of 1000 pixels.
    A person stays in their images within about 0.8 m of the origin (the `radius` of `view_motion`).
    """
    azimuth, distance = rng.uniform(-np.pi, np.pi, count), rng.uniform(3.0, 6.0, count)
    height, roll = rng.uniform(0.8, 2.2, count), rng.normal(0, np.deg2rad(2), count)
    position = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height], axis=-1)
    forward = np.array([0, 0, 0.95]) + rng.normal(0, 0.08, (count, 3)) - position
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    # The columns of the rotation from camera to world are the camera's axes in the world: x right and y down, rolled
    # about z forward. The cross products make them orthonormal and right-handed, right x down = forward.
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    axes = np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=-1)
    camera = Camera(
        # Human3.6M's are 1145 to 1150 pixels in images 1000 wide, twice that share in normalised image units.
        focal=2.29 * rng.uniform(0.97, 1.03, (count, 1)) * rng.uniform(0.998, 1.002, (count, 2)),
        centre=rng.normal(0, 0.02, (count, 2)),
        radial=rng.uniform(-1, 1, (count, 3)) * [0.1, 0.05, 0.005],
        tangential=rng.uniform(-0.002, 0.002, (count, 2)),
        rotation=np.asarray(quaternions.from_matrix(axes.astype(np.float32))),
        translation=position,
        size=np.full((count, 2), 1000.0),
    )
    return Camera(*(value.astype(np.float32) for value in camera))


def find_aim(cameras: Camera) -> np.ndarray:
    """Find the point of the ground plane `[2]` (x, y in metres) nearest to the optical axes of cameras `[K]`."""
    # Seen from above, axis k passes through the camera at t_k in the direction d_k (a unit vector), and the squared
    # distance of p from it is |A_k (p - t_k)|^2 with the projection across the axis A_k = I - d_k d_k^T. The sum over k
    # is least where (sum A_k) p = sum A_k t_k, because A_k^T A_k = A_k.
    forward = np.asarray(quaternions.to_matrix(cameras.rotation))[..., 2].astype(np.float64)
    forward = forward[:, :2] / np.linalg.norm(forward[:, :2], axis=-1, keepdims=True)
    across = np.eye(2) - forward[:, :, None] * forward[:, None, :]
    # A single camera leaves its whole axis free: the ridge takes the point of it that is nearest to the origin.
    system = across.sum(0) + 1e-3 * np.eye(2)
    return np.linalg.solve(system, np.einsum("kij,kj->i", across, cameras.translation[:, :2]))


def follow(path: np.ndarray, radius: float, fps: float) -> np.ndarray:
    """Find a moving centre `[T, 2]` (m) that keeps within `radius` (m) of a path `[T, 2]` (m) on the ground.

    A path that stays within the radius of its mean keeps a fixed centre: the mean. A longer one is followed by itself,
    smoothed with the widest Gaussian of 8, 4, 2, 1, ... seconds that leaves it within the radius; the cameras then move
    along with the person, slowly and without jumps, and the motion loses only its slow travel over the ground.
    """
    # A narrower Gaussian smooths less, and in the limit the centre is the path itself: the loop ends.
    centre: np.ndarray = np.broadcast_to(path.mean(axis=0), path.shape)
    seconds = 8.0
    while np.linalg.norm(path - centre, axis=-1).max() > radius:
        reach = int(4 * seconds * fps)
        # Cut at 4 standard deviations a Gaussian lacks 0.006 % of its weight, which the division restores.
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (seconds * fps)) ** 2)
        padded = np.pad(path, ((reach, reach), (0, 0)), mode="edge")
        centre = np.stack([np.convolve(axis, kernel / kernel.sum(), mode="valid") for axis in padded.T], axis=-1)
        seconds /= 2
    return centre


@functools.partial(jax.jit, static_argnames="root_joint")
def _film(world: jax.Array, camera: Camera, root_joint: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    points = geometry.world_to_camera(world, camera)
    root = points[..., root_joint, :]
    return geometry.project(points, camera), points - root[..., None, :], root


def view_motion(
    world_poses: np.ndarray,
    cameras: Camera,
    yaw: float | np.ndarray = 0.0,
    *,
    fps: float = 50.0,
    radius: float = RADIUS,
    root_joint: int = 0,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Film a motion with each of several cameras, lens distortion included.

    The motion is turned about the vertical and placed where the cameras aim (`find_aim`): its centre is the mean of the
    root's path, or, if the path leaves the radius around it, the smoothed path itself (`follow`). The height above the
    floor is kept. `find_usable_frames` tells which frames lie in the image: 99.7 % of the CMU archive (98.0 % with the
    mean alone), the rest being mostly climbers whose heads pass the upper edge.

    Args:
        world_poses: The motion `[T, J, 3]`, metres, world frame, z up.
        cameras: The K cameras.
        yaw: Angle of the turn in radians, one or `[K]` for one per camera.
        fps: Frames per second of the motion.
        radius: How far (m) from their aim the cameras' images hold a person.
        root_joint: Index of the root.

    Returns:
        Per camera keypoints `[T, J, 2]` (normalised image units), root-relative poses `[T, J, 3]` and the root's path
        `[T, 3]` (metres, camera frame), numpy float32; project(pose + root) gives the keypoints.
    """
    world = np.array(world_poses, np.float64)
    frames = len(world)
    world[..., :2] -= follow(world[:, root_joint, :2], radius, fps)[:, None]
    count = len(cameras.focal)
    # Turned about the vertical axis through the centre: (x, y) -> (cos x - sin y, sin x + cos y).
    cos, sin = np.cos(np.broadcast_to(yaw, count))[:, None, None], np.sin(np.broadcast_to(yaw, count))[:, None, None]
    x, y, z = np.moveaxis(world, -1, 0)
    turned = np.stack([cos * x - sin * y, sin * x + cos * y, np.broadcast_to(z, (count, *z.shape))], axis=-1)
    turned[..., :2] += find_aim(cameras)
    # Clips have many lengths; powers of two keep the number of compiled versions small.
    padding = (1 << (frames - 1).bit_length()) - frames
    turned = np.pad(turned.astype(np.float32), ((0, 0), (0, padding), (0, 0), (0, 0)), mode="edge")
    views = (np.asarray(part)[:, :frames] for part in _film(jnp.asarray(turned), cameras, root_joint))
    return list(zip(*views, strict=True))


def find_usable_frames(
    keypoints: np.ndarray,
    poses: np.ndarray,
    root: np.ndarray,
    size: np.ndarray,
    margin: float = 0.02,
    nearest: float = 1.0,
) -> np.ndarray:
    """Find the frames that show the whole person.

    Args:
        keypoints: `[T, J, 2]`, normalised image units.
        poses: `[T, J, 3]` metres, camera frame, root-relative.
        root: `[T, 3]` metres, camera frame.
        size: Width and height of the image `[2]`, pixels.
        margin: How far inside the image all joints must lie, normalised image units.
        nearest: How far in front of the camera all joints must lie, m.

    Returns:
        Whether each frame does, bool `[T]`.
    """
    # Normalised image units reach from -1 to 1 across and from -h/w to h/w down the image.
    limit = np.asarray(size) / np.asarray(size)[0] - margin
    inside = (np.abs(keypoints) <= limit).all(axis=(-2, -1))
    return inside & ((poses[..., 2] + root[..., None, 2]) >= nearest).all(axis=-1)


def find_usable_runs(usable: np.ndarray, shortest: int = 1) -> list[slice]:
    """Find the unbroken runs of usable frames, given as bool `[T]`, that are at least `shortest` frames long."""
    edges = np.flatnonzero(np.diff(usable.astype(np.int8), prepend=0, append=0))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= shortest]
