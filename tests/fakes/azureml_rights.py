"""Which rights a request to Azure ML's resource manager asks for, and which the role of `infra/azure` gives."""

from __future__ import annotations

import functools
import re

from project import ROOT as CHECKOUT

TEMPLATE = CHECKOUT / "infra" / "azure" / "template.bicep"
WORKSPACE = "Microsoft.MachineLearningServices/workspaces"
MONITOR = "Microsoft.Insights"
VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


def right_for(method: str, path: str, workspace: str) -> str | None:
    """The action that lets a request pass.

    Args:
        method: HTTP's.
        path: Of the request.
        workspace: The workspace's own path.

    Returns:
        As `Microsoft.MachineLearningServices/workspaces/jobs/read`; None for what is
            about neither this workspace nor how many servers it has.
    """
    if re.match(re.escape(f"/history/v1.0{workspace}/runs/"), path):
        return f"{WORKSPACE}/experiments/runs/read"
    space, _, below = path.rpartition("/providers/")[2].partition("/")
    ours = path == workspace or path.startswith(f"{workspace}/")
    if "/providers/" not in path or not (ours or space == MONITOR):
        return None
    # What follows is a kind and a name in turn; a POST ends with what is to be done.
    what = "/".join([space, *below.strip("/").split("/")[::2]])
    return f"{what}/{'action' if method == 'POST' else VERBS[method]}"


@functools.cache
def given() -> dict[str, str]:
    """The actions that the template's own roles allow, each with what its line says of it after `//`."""
    blocks = re.findall(r"\bactions: \[([^\]]*)\]", TEMPLATE.read_text())
    lines = [line for block in blocks for line in block.splitlines() if line.strip() and "//" not in line.split("'")[0]]
    found = [re.fullmatch(r"\s*'([^']+)'\s*(?:// (.+))?", line) for line in lines]
    assert found, f"{TEMPLATE} gives no actions"
    assert all(found), f"{TEMPLATE}: {[line for line, one in zip(lines, found, strict=True) if one is None]}"
    return {one[1]: one[2] or "" for one in found if one}


def allowed(right: str) -> bool:
    """Whether the roles allow an action; Azure does not mind how it is spelt."""
    return right.lower() in {one.lower() for one in given()}
