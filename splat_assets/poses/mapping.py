"""From matches to cameras and points: COLMAP's incremental mapper, or its global one (GLOMAP).

Incremental: Schönberger & Frahm 2016. Global: Pan et al. 2024.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from splat_assets.poses.features import Workspace
from splat_assets.poses.native import run_native
from splat_assets.progress import Progress

GLOBAL_FROM = 150  # images; incremental mapping grows faster than linearly
SOME_IMAGES, MANY_IMAGES = 10, 20  # that share a camera, for k2; for all of OPENCV
REFINE_PX = 0.25  # errors beyond count by their size, no longer by its square
MIN_INLIERS = 15  # verified matches that make a pair, and a registration
# Sums over several threads differ in their last digits, and registration order can follow from
# them. One thread makes two runs agree bit for bit; above this many images the wait is too long.
ONE_THREAD_UP_TO = 200


@dataclass(frozen=True)
class Mapped:
    """What a mapper returned: models, largest first."""

    mapper: str
    models: tuple[pycolmap.Reconstruction, ...]

    @property
    def registered(self) -> int:
        return self.models[0].num_reg_images() if self.models else 0

    @property
    def error_px(self) -> float:
        return self.models[0].compute_mean_reprojection_error() if self.models else float("nan")


def choose_mapper(wanted: str, num_images: int) -> str:
    if wanted != "auto":
        return wanted
    return "global" if num_images > GLOBAL_FROM else "incremental"


def run_mapper(
    mapper: str, workspace: Workspace, *, threads: int, seed: int, progress: Progress
) -> Mapped:
    """Reconstruct from the workspace's database. Returns no models when no pair can start one."""
    pycolmap.set_random_seed(seed)
    if len(workspace.links) <= ONE_THREAD_UP_TO:
        threads = 1
    run = _run_global if mapper == "global" else _run_incremental
    models = run(workspace, threads, seed, progress)
    ranked = sorted(models, key=lambda m: (-m.num_reg_images(), -m.num_points3D()))
    return Mapped(mapper, tuple(ranked))


def incremental_options(
    num_images: int, threads: int, seed: int
) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options with what was measured to be faster or to register more (benchmarks/)."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads
    options.random_seed = seed
    options.mapper.random_seed = seed
    options.triangulation.random_seed = seed
    options.min_num_matches = MIN_INLIERS
    options.min_model_size = max(3, min(10, num_images // 3))
    # `refine` ends the work, so the adjustments on the way need not converge to the last digit
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements = 2
    options.ba_global_max_num_iterations = 25
    options.ba_global_function_tolerance = 1e-6
    options.ba_local_max_num_iterations = 15
    options.extract_colors = False  # done once, for the model that is kept
    # with shared intrinsics 15 points pin an image down; 30 loses weakly connected ones
    options.mapper.abs_pose_min_num_inliers = MIN_INLIERS
    return options


def _run_incremental(
    workspace: Workspace, threads: int, seed: int, progress: Progress
) -> list[pycolmap.Reconstruction]:
    total = len(workspace.links)
    options = incremental_options(total, threads, seed)
    registered = furthest = 0

    def started() -> None:  # again for every further model
        nonlocal registered
        registered = 2

    def advanced() -> None:
        nonlocal registered
        registered += 1

    def poll() -> None:
        nonlocal furthest
        furthest = min(max(furthest, registered), total)
        message = f"Registered {furthest} of {total} images"
        progress.update(furthest / total, message, registered=furthest)

    out = workspace.folder / "models"
    out.mkdir(exist_ok=True)
    models = run_native(
        lambda token: pycolmap.incremental_mapping(
            workspace.database,
            workspace.images,
            out,
            options,
            initial_image_pair_callback=started,
            next_image_callback=advanced,
            cancellation_token=token,
        ),
        poll,
    )
    return list(models.values())


def _run_global(
    workspace: Workspace, threads: int, seed: int, progress: Progress
) -> list[pycolmap.Reconstruction]:
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads = threads
    options.random_seed = seed
    options.mapper.num_threads = threads
    options.mapper.random_seed = seed
    options.mapper.global_positioning.use_gpu = False
    options.mapper.bundle_adjustment.ceres.use_gpu = False
    options.min_num_matches = MIN_INLIERS
    manager = pycolmap.ReconstructionManager()
    steps = 0

    def run(token: pycolmap.CancellationToken) -> None:
        def advanced() -> None:
            nonlocal steps
            steps += 1
            if token.is_cancelled:  # the global mapper does not look at tokens itself
                raise InterruptedError("cancelled")

        with pycolmap.Database.open(workspace.database) as database:
            pipeline = pycolmap.GlobalPipeline(options, database, manager)
            update = pycolmap.GlobalPipelineCallback.MODEL_UPDATE_CALLBACK
            pipeline.add_callback(update.value, advanced)
            pipeline.run()

    def poll() -> None:
        progress.update(1 - 0.8**steps, "Solving all cameras at once", steps=steps)

    run_native(run, poll)
    return [manager.get(i) for i in range(manager.size())]


def refine(model: pycolmap.Reconstruction, *, keep_camera_model: bool = False) -> None:
    """A last bundle adjustment in place: a fuller lens, and bad matches pull less.

    While images are added one by one a simple lens is the safe one; once all are there, a camera
    seen in many images bears tangential distortion and its principal point, which real lenses have
    (half the error on drone photos, benchmarks/poses_vs_defaults.py). The mappers end with plain
    squares, so that matches a few pixels off decide; a robust loss lets them not. One thread, as
    sums in several differ in their last digits.

    Args:
        keep_camera_model: the user named the model; only its own parameters are refined.
    """
    images = Counter(model.images[number].camera_id for number in model.reg_image_ids())
    if not keep_camera_model:
        for number, count in images.items():
            _enrich(model.cameras[number], count)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_principal_point = not keep_camera_model and min(images.values()) >= MANY_IMAGES
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = REFINE_PX
    options.ceres.solver_options.num_threads = 1
    options.ceres.solver_options.max_num_iterations = 30
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # not pycolmap.bundle_adjustment, which turns COLMAP's log on for the rest of the process
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    model.update_point_3d_errors()


def _enrich(camera: pycolmap.Camera, num_images: int) -> None:
    """More lens parameters, all zero, for a SIMPLE_RADIAL camera that enough images share."""
    if camera.model_name != "SIMPLE_RADIAL" or num_images < SOME_IMAGES:
        return
    f, cx, cy, k = camera.params
    if num_images >= MANY_IMAGES:
        camera.model = pycolmap.CameraModelId.OPENCV
        camera.params = [f, f, cx, cy, k, 0, 0, 0]
    else:
        camera.model = pycolmap.CameraModelId.RADIAL
        camera.params = [f, cx, cy, k, 0]


def extract_colors(model: pycolmap.Reconstruction, images: Path, threads: int) -> None:
    """Colour the points by the mean of the pixels they were seen at."""
    model.extract_colors_for_all_images(images, threads)
