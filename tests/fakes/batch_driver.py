"""One process of Azure ML's batch driver: it loads a scoring script and hands it mini-batches until there are no more.

python batch_driver.py SCRIPT LOG; a mini-batch is a line of JSON on the standard input, its answer one on the standard
output. What the script prints goes to LOG.
"""

import importlib.util
import json
import os
import sys
import traceback


def main(script: str, log: str) -> None:
    """Calls `init`, and `run` for each mini-batch."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(log, "ab", 0) as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
    try:
        spec = importlib.util.spec_from_file_location("entry_script", script)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.init()
    except BaseException as error:
        traceback.print_exc()
        print(json.dumps({"failed": repr(error)}), file=answers)
        return
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        try:
            rows = module.run(json.loads(line))
            if not isinstance(rows, list):
                raise TypeError(f"run() must return a list or a pandas DataFrame, not {type(rows).__name__}")
            told = {"rows": [str(row) for row in rows]}
        except Exception as error:
            traceback.print_exc()
            told = {"error": repr(error)}
        print(json.dumps(told), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
