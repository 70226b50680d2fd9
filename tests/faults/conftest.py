import pytest

from faults.site import RealSite, save_tiny_files
from servers import postgres_folder


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """A model of few blocks and text for it."""
    return save_tiny_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def make_site(tmp_path, tiny_files):
    """Makes sites that are closed in the end; on SQLite and a folder where nothing else is said."""
    made = []

    def make(folder=tmp_path / "data", files=tiny_files, **settings):
        made.append(RealSite(folder, files, **settings))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site):
    """On SQLite and a folder."""
    return make_site()


@pytest.fixture
def s3_site(make_site, s3_server):
    """On SQLite and an object store."""
    return make_site(**s3_server.as_destination())


@pytest.fixture(params=["sqlite and a folder", "postgresql and s3"])
def any_site(request, make_site):
    """On every kind of database and of object store."""
    if request.param == "sqlite and a folder":
        return make_site()
    if not postgres_folder():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    database_url = request.getfixturevalue("postgres").create_database()
    return make_site(database_url=database_url, **request.getfixturevalue("s3_server").as_destination())
