import pytest

from faults.site import save_tiny_files


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """A model of few blocks and text for it."""
    return save_tiny_files(tmp_path_factory.mktemp("files"))
