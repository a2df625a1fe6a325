"""What each process of a test does that has several runs made by processes that are started once.

The first argument is the options of each run, as JSON.
"""

from __future__ import annotations

import json
import sys

from mlx_video.cli import generate
from mlx_video.cli.clustered import follow
from mlx_video.distributed.cluster import join_cluster


def main() -> int:
    runs = [generate.build_parser().parse_args(words) for words in json.loads(sys.argv[1])]
    cluster = join_cluster(30)
    assert cluster.channel is not None
    try:
        if not cluster.leads:
            return follow(runs[0], cluster)
        for args in runs:
            for _ in generate.run_events(args, cluster):
                pass
    finally:
        cluster.channel.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
