"""`python -m localllm.engine.worker`: the engine's process."""

import sys

from localllm.engine.worker.main import main

sys.exit(main())
