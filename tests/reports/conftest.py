"""A study per test."""

import pytest
from report_study import Study


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)
