"""What a store's errors mean, and what is to be done about those that are about the lake as a whole."""

from collections.abc import Sequence

from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError

from detection_assets.domain.problems import Told

FULL = ("StorageFull", "QuotaExceeded")
"""What the store's error says when there is no room, on a disk or within a quota."""
NO_LAKE = ("NoSuchBucket", "ContainerNotFound")
"""What it says when the bucket or the container is missing."""
EXPIRED = ("ExpiredToken", "TokenRefreshRequired")
"""What it says when the credentials were good once."""
NOBODY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed", "InvalidAuthenticationInfo")
"""What it says when the credentials are wrong."""
REFUSED = ("AccessDenied", "AuthorizationPermissionMismatch")
"""What it says when the credentials are good, but not for this; not every operation has an error of its own for it."""
NOT_FROM_HERE = ("AuthorizationFailure",)
"""What Azure says when the account's firewall keeps this network out."""
NO_KEYS = ("KeyBasedAuthenticationNotPermitted",)
"""What Azure says to a key, or to what is signed with one, where an account takes tokens alone."""
NO_ACCOUNT = ("Account must be specified",)
NO_KEY = ("Invalid Access Key",)
"""What obstore says, before it asks anybody, when the account is not named, or when its key is none."""
SILENT = ("HTTP error: error sending request", "HTTP error: operation timed out")
"""What obstore says when the store was not reached; an address in its errors has no spaces, so no key reads like it."""
CONFLICT = ("ConditionalRequestConflict",)
"""What S3 says while another write to the same key is on its way."""


class StorageFullError(Told, OSError):
    """There is no room for an object. What was there before is there still."""


class LakeError(Told, OSError):
    """The lake cannot be used with these settings or credentials; the message says what to do."""


def says(error: Exception, signs: Sequence[str]) -> bool:
    """Whether a store's error has one of these codes."""
    # S3 and Azure wrap it like this. The bare word may stand in the key, which the error repeats.
    return any(f"<Code>{sign}</Code>" in str(error) for sign in signs)


def refusal(error: Exception) -> str | None:
    """What is to be done about a lake that as a whole is not to be had; None if it is only about this object."""
    if says(error, NO_LAKE):
        return "there is no such bucket or container; make it, or correct DETECTION_LAKE"
    if any(sign in str(error) for sign in NO_ACCOUNT):
        return "no storage account is named; set AZURE_STORAGE_ACCOUNT_NAME in .env"
    if any(sign in str(error) for sign in NO_KEY):
        return "AZURE_STORAGE_ACCOUNT_KEY is no key of a storage account; copy it again from the account's Access keys"
    if any(sign in str(error) for sign in SILENT):
        return "the store does not answer; correct DETECTION_LAKE, the account or the network, and run again"
    if says(error, NOT_FROM_HERE):
        return "the store refuses; let the account's firewall allow this network, or correct DETECTION_LAKE"
    if says(error, NO_KEYS):
        return (
            "the storage account takes no keys; log in (az login) and set AZURE_USE_AZURE_CLI=true, or allow its keys"
        )
    if says(error, EXPIRED):
        return "the credentials have expired; log in again, or renew them in .env"
    if says(error, NOBODY):
        return "the store does not know these credentials; correct them in .env"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or says(error, REFUSED):
        return "the store refuses these credentials; give them the right to list, read, write and delete below the lake"
    return None


def unreadable(error: Exception) -> str:
    """What is to be done about an object whose name the store takes and its library does not."""
    return f"an object's name has an empty part or one of dots alone; rename it: {str(error).splitlines()[0]:.300}"


def not_listed(error: OSError) -> None:
    """What is to be done about a folder of this machine that cannot be listed; one that is not there is empty.

    Raises:
        LakeError: It is there.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        why = "this user cannot list it; correct the folder's owner or permissions"
        raise LakeError(error.errno, why, error.filename) from None


def is_full(error: Exception) -> bool:
    """Whether there is no room for an object."""
    return isinstance(error, GenericError) and any(sign in str(error) for sign in FULL)
