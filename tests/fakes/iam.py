"""Which rights a request asks for."""

from __future__ import annotations

from urllib.parse import parse_qs, urlparse

from fakes.s3 import Asked

SERVICES = {"AnyScaleFrontendService": "application-autoscaling", "AmazonSQS": "sqs"}
"""Services whose requests name them otherwise than IAM does."""


def right_for(asked: Asked) -> str:
    """The action of IAM that lets a request to S3, SQS or CloudWatch Logs pass."""
    headers = {name.lower(): value for name, value in asked.headers.items()}
    target = headers.get("x-amz-target", "")
    if target:
        service, _, operation = target.partition(".")
        # A batch of SQS's needs the right for one.
        return f"{SERVICES.get(service, service.partition('_')[0].lower())}:{operation.removesuffix('Batch')}"
    url = urlparse(asked.path)
    query = parse_qs(url.query, keep_blank_values=True)
    key = url.path.strip("/").partition("/")[2]
    if "cors" in query:
        return "s3:GetBucketCORS"
    if "list-type" in query:
        return "s3:ListBucket"
    if asked.method == "DELETE" and "uploadId" in query:
        return "s3:AbortMultipartUpload"
    if asked.method == "DELETE" or "delete" in query:
        return "s3:DeleteObject"
    if asked.method in ("GET", "HEAD") and key:
        return "s3:GetObject"
    if asked.method in ("PUT", "POST") and key:
        return "s3:PutObject"
    raise AssertionError(f"{asked.method} {asked.path}: which right is that?")
