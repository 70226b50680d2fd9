"""Fixtures that tests of several folders use."""

from servers import s3_server

__all__ = ["s3_server"]
