import os

import pytest
from ants_env import ANTS_SEED, ITK_THREADS, ants_session, load_ants


def test_session_sets_and_restores_the_environment(monkeypatch):
    monkeypatch.setenv(ITK_THREADS, "7")
    monkeypatch.delenv(ANTS_SEED, raising=False)
    with ants_session(11) as ants:
        assert os.environ[ITK_THREADS] == "1"
        assert os.environ[ANTS_SEED] == "11"
        assert callable(ants.apply_transforms)
    assert os.environ[ITK_THREADS] == "7"
    assert ANTS_SEED not in os.environ


def test_the_clock_is_no_seed():
    with pytest.raises(ValueError, match="positive"):
        load_ants(0)
