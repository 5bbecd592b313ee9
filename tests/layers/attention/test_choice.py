"""The backend that is asked for is the one that is taken, or the refusal says which there are."""

import pytest

from stentor.errors import ConfigError
from stentor.layers.attention import SdpaBackend, choose_backend


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    assert isinstance(choose_backend("auto"), SdpaBackend)
    with pytest.raises(ConfigError, match="'magic'; choose one of: auto, sdpa"):
        choose_backend("magic")
