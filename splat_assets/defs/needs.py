"""What a step needs of the machine it runs on, declared once and read by every engine.

The embedded executor ignores it. Ray schedules by it exactly (a fraction of a core or a card
included), Kubernetes turns it into requests and limits, and Celery, which knows only queues,
sends a step to the queue `gpu` or `cpu`.
"""

from __future__ import annotations

import json
import math

from splat_assets.settings import load_settings


def needs(
    cpus: float | None = None, *, gpus: float = 0, memory_gb: float = 1.0
) -> dict[str, str | dict]:
    """The `op_tags` of an asset.

    Args:
        cpus: cores; None for a heavy step, which asks for `SPLAT_ASSETS_STEP_CPUS`.
        gpus: cards. None are asked for where `SPLAT_ASSETS_DEVICE=cpu`: a cluster without any
            would otherwise keep the step waiting for ever.
        memory_gb: main memory the step is expected to use.
    """
    settings = load_settings()
    cpus = settings.step_cpus if cpus is None else cpus
    gpus = 0 if settings.device == "cpu" else gpus
    memory = int(memory_gb * 2**30)
    ray = {"num_cpus": cpus, "memory": memory} | ({"num_gpus": gpus} if gpus else {})
    limits = {"nvidia.com/gpu": str(math.ceil(gpus))} if gpus else {}
    resources = {"requests": {"cpu": str(cpus), "memory": str(memory)}, "limits": limits}
    return {
        "dagster-ray/config": json.dumps(ray),
        "dagster-k8s/config": {"container_config": {"resources": resources}},
        "dagster-celery/queue": "gpu" if gpus else "cpu",
    }
