"""The tiny base models that the tests of adapters have loaded."""

from tests.trainer.lora.conftest import base_of, loaded_bases  # noqa: F401
