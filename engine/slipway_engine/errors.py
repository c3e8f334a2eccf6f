"""Every way the engine can refuse, as one exception tree.

    EngineError
    ├── InvalidArgument      a flag or a configuration value cannot be used
    ├── ModelNotFound        the source names nothing
    ├── ModelAccessDenied    the source exists, the credentials do not open it
    │   └── ModelGated       its terms were not accepted
    ├── ModelUnsupported     a format, an architecture or a feature that the engine does not run
    ├── ModelCorrupt         a file contradicts itself
    ├── ModelChanged         the source holds other files than when its version was resolved
    ├── ModelUnsigned        a signature is required and there is none
    ├── SignatureInvalid     there is one, and it does not hold for these files and keys
    ├── DownloadFailed       the source did not answer; trying again may help
    │   └── DownloadStalled  it answered, and then sent nothing any more
    ├── DoesNotFit           the memory plan has no room
    │   └── VolumeFull       nor has the volume for the model's files
    ├── GroupBroken          a rank of the group is missing, gone, silent or stuck
    └── RequestError         one request is wrong; the others are not concerned

`reason` is a stable CamelCase word (it becomes the reason of a Kubernetes condition); the message is one
sentence that says what to write or run instead.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    reason = "Internal"


class InvalidArgument(EngineError):
    """A flag or a configuration value cannot be used."""

    reason = "InvalidArgument"


class ModelNotFound(EngineError):
    """The source names no model."""

    reason = "ModelNotFound"


class ModelAccessDenied(EngineError):
    """The source exists, but the credentials given do not open it."""

    reason = "ModelAccessDenied"


class ModelUnsupported(EngineError):
    """The model needs a format, an architecture or a feature that the engine does not run."""

    reason = "ModelUnsupported"


class ModelCorrupt(EngineError):
    """A model file contradicts itself, its index or its checksum."""

    reason = "ModelCorrupt"


class ModelChanged(EngineError):
    """The source holds other files than when its version was resolved."""

    reason = "ModelChanged"


class ModelUnsigned(EngineError):
    """A signature is required, and the model has none."""

    reason = "ModelUnsigned"


class SignatureInvalid(EngineError):
    """The model's signature does not hold for these files and keys."""

    reason = "SignatureInvalid"


class DownloadFailed(EngineError):
    """The source did not deliver; trying again may help."""

    reason = "DownloadFailed"


class DoesNotFit(EngineError):
    """The memory plan has no room for the model with the limits asked for."""

    reason = "DoesNotFit"


class GroupBroken(EngineError):
    """The ranks that compute one model together cannot go on; `reason` says what happened to one of them."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelGated(ModelAccessDenied):
    """The source asks its readers to accept terms, and the token's owner has not."""

    reason = "ModelGated"


class DownloadStalled(DownloadFailed):
    """The source answers, and then sends nothing any more."""

    reason = "DownloadStalled"


class VolumeFull(DoesNotFit):
    """The volume that a model is brought to has no room for it."""

    reason = "VolumeFull"


class RequestError(EngineError):
    """One request cannot be served as it was sent.

    `param` is the request's field at fault (or None), `code` a stable snake_case word for programs,
    `status` the HTTP status that says it, `retry_after` the seconds after which another try may succeed
    (None: unknown, or never).
    """

    reason = "InvalidRequest"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str = "invalid_value",
        status: int = 400,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.retry_after = retry_after
