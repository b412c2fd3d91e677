"""Every filter passes the conformance suite, and the suite catches filters that break a promise."""

import pytest
from all_filters import FILTERS

from rnndsp.testing import check_filter


@pytest.mark.parametrize("name", FILTERS)
def test_conformance(name):
    check_filter(FILTERS[name]())
