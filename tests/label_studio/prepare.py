"""Makes the data folder that tests' Label Studio servers begin with: an empty database, and people with their keys.

To make the database takes longer than all else, so it is done once. It runs in Label Studio's own environment;
`fakes.label_studio` starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path


def main(folder: Path, people: dict[str, str], password: str) -> None:
    """Makes the folder as a whole, or not at all.

    Args:
        folder: The folder.
        people: Who gets an account: mail addresses, and the key of each.
        password: All of theirs.
    """
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    os.environ["LABEL_STUDIO_BASE_DATA_DIR"] = str(part)
    from label_studio import server

    server._setup_env()
    server._apply_database_migrations()
    for email, token in people.items():
        args = Namespace(
            username=email, password=password, user_token=token, quiet_mode=True, enable_legacy_api_token=True
        )
        server._create_user(args, {})
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), json.loads(sys.argv[2]), sys.argv[3])
