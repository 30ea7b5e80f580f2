"""The toy router stands in the dict for every test of this folder."""

from collections.abc import Iterator

import pytest

from moiety.moe.routers import ROUTERS
from tests.moe.toy_router import TOY, SigmoidRouter


@pytest.fixture(autouse=True, scope="package")
def _toy_router() -> Iterator[None]:
    """Only these tests see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROUTERS, TOY, SigmoidRouter)
        yield
