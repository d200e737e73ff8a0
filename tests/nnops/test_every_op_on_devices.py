"""Every named op, its examples over eight devices: sharded jit, Explicit axes, shard_map."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from samples import SAMPLES

SCRIPT = Path(__file__).with_name("every_op_on_eight_devices.py")


# One test for all ops, so that workers that run side by side do not all start the script.
@pytest.mark.slow
def test_every_op():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    path = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-P", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["ops"] == len(SAMPLES)
    assert results["failures"] == {}
