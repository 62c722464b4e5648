"""Two replicas of the service on this machine, behind one address; Ctrl-C ends them.

python examples/ray/two_replicas.py BUNDLE
"""

import contextlib
import sys
import time

import ray
from ray import serve

from ttc.serving.adapters.ray import Cluster, build
from ttc.serving.service.settings import Settings

HOST, PORT = "127.0.0.1", 8000
EXAMPLE = '{"prompt": "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many?\\nAnswer:"}'


def main(bundle: str) -> None:
    """Serve until Ctrl-C."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": HOST, "port": PORT})
        serve.run(build(Settings(bundle=bundle), Cluster(replicas=2)))
        print(f"two replicas behind http://{HOST}:{PORT}; ask them like this:")
        print(f"  curl http://{HOST}:{PORT}/v1/completions -d '{EXAMPLE}'", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
