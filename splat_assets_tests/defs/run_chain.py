"""Run a dataset's chain like the command line does, with fake stages; a program for tests."""

import sys

from splat_assets.errors import Cancelled, UserError
from splat_assets.launch import run_chain
from splat_assets.progress import Report
from splat_assets_tests.defs.fake_definitions import defs


def tell(asset: str, report: Report) -> None:
    print(f"{asset} {report.message}", flush=True)


if __name__ == "__main__":
    try:
        outcome = run_chain(sys.argv[1], sink=tell, definitions=defs)
    except UserError as error:
        print(error, flush=True)
        sys.exit(2)
    except Cancelled as error:
        print(error, flush=True)
        sys.exit(130)
    print(outcome.assets["trained_splat"]["resumed_from_step"], flush=True)
    sys.exit(0 if outcome.succeeded else 1)
