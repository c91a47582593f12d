"""Filesystems by URL: this machine's own, or any that fsspec knows, object stores above all."""

from __future__ import annotations

from typing import Any

from whylens.errors import UsageError

# What opens the URLs of a protocol: the extra of this package that installs it.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "azure"),
}


def remote(url: str) -> bool:
    """Whether a path is a URL (s3://bucket/run), and none of this machine's."""
    return "://" in url or "::" in url


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path on it, without a slash at its end.

    Nothing that was listed is kept: s3fs, gcsfs and adlfs remember listings by default, and what
    another process has written since would then not be there.

    Raises
    ------
    UsageError
        If fsspec does not know the protocol, or the package that it needs is not installed.
    """
    import fsspec

    options = {"use_listings_cache": False} if remote(url) else {}
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(url.partition("://")[0])
        how = f"pip install 'whylens[{extra}]'" if extra else str(error)
        raise UsageError(
            f"{url} can't be opened, a package is not installed for it: {how}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{url} can't be opened: {error}") from error
    return system, str(root).rstrip("/")


def local(system: Any) -> bool:
    """Whether a filesystem is this machine's own."""
    protocols = system.protocol
    return "file" in (protocols if isinstance(protocols, tuple) else (protocols,))


def object_store(url: str) -> bool:
    """Whether a URL's store has no folders, and shows an object only when it is whole."""
    return url.partition("://")[0] in _EXTRAS
